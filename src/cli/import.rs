//! `fmnist-gpu import`

use super::{Global, print, print_json};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::export::{Imported, Layout, import};
use fmnist_gpu::model::Model;
use fmnist_gpu::train::run::RunFolder;
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

/// Largest file that is read, bytes; the built-in CNN has 1.7 MB.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A safetensors file with the weights of PyTorch or Keras
    file: PathBuf,
    /// The model whose weights they are
    #[arg(long, default_value = "cnn", value_name = "mlp|cnn|FILE.toml")]
    model: String,
    /// Layout of the weights: auto lets their shapes decide
    #[arg(long, default_value = "auto", value_name = "auto|torch|keras", value_parser = parse_layout)]
    layout: LayoutChoice,
    /// Run folder to write [default: the first free runs/MODEL-NUMBER]
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Replace files of the same name in an existing run folder
    #[arg(long)]
    force: bool,
    /// Print what was read as JSON
    #[arg(long)]
    json: bool,
}

/// A layout, or none where the shapes decide.
#[derive(Clone, Copy, Debug)]
struct LayoutChoice(Option<Layout>);

fn parse_layout(text: &str) -> Result<LayoutChoice, String> {
    if text == "auto" {
        return Ok(LayoutChoice(None));
    }
    text.parse().map(|layout| LayoutChoice(Some(layout))).map_err(|error: String| format!("{error}, or auto"))
}

/// What `import --json` prints.
#[derive(Debug, Serialize)]
struct Opened {
    file: PathBuf,
    model: String,
    layout: Layout,
    /// Each layer, and the stem of its tensors' names in the file.
    layers: Vec<(String, String)>,
    run: PathBuf,
}

/// Makes a run folder from another tool's weights.
pub fn run(args: ImportArgs, global: &Global) -> Result<ExitCode> {
    let model = Model::load(&args.model)?;
    let name = args.file.display();
    let file = std::fs::File::open(&args.file).with_context(|| format!("{name}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("{name}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        bail!("{name}: the file has more than {} MiB; no model of Fashion-MNIST is so large", MAX_FILE_BYTES >> 20);
    }
    let imported =
        import(&bytes, &model, args.layout.0).with_context(|| format!("{name}, as model `{}`", model.name))?;
    let out = args.out.unwrap_or_else(|| RunFolder::next_free(&model.name));
    let folder = RunFolder::create(&out, args.force)?;
    folder.write_model(&model, &imported.parameters)?;
    for (layer, stem) in &imported.stems {
        global.say(format!("{layer}: `{stem}` ({})", imported.layout));
    }
    if args.json {
        let Imported { layout, stems, .. } = imported;
        print_json(&Opened { file: args.file, model: model.name, layout, layers: stems, run: out })?;
    } else {
        print(&format!("Run: {}", out.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
