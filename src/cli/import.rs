//! `fmnist-gpu import`

use super::{Global, print_result};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::files::{ShownPath, read_stream};
use fmnist_gpu::import::{Layout, MAX_FILE_BYTES, Origin, from_bytes};
use fmnist_gpu::model::Model;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{CONFIG_FILE, MODEL_FILE, SUMMARY_FILE};
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Safetensors file with the weights
    file: PathBuf,
    /// Model: mlp, cnn, tiny, fast, best, or a .toml file that lists the layers [default: the model named in the file, else mlp or cnn, whichever fits]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Order of the axes: torch ([O,C,KH,KW], [out,in]), keras ([KH,KW,C,O], [in,out]), or auto (detect it from the shapes)
    #[arg(long, value_enum, default_value_t = LayoutChoice::Auto, hide_possible_values = true,
          value_name = "auto|torch|keras")]
    layout: LayoutChoice,
    /// Run folder to write [default: the first free runs/MODEL-NUMBER]
    #[arg(long, value_name = "RUN", value_parser = super::output_path())]
    out: Option<PathBuf>,
    /// Write into the folder even if it is not empty
    #[arg(long)]
    force: bool,
    /// Print the imported tensors as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutChoice {
    Auto,
    Torch,
    Keras,
}

/// What `import --json` prints.
#[derive(Debug, Serialize)]
struct ImportOutput {
    run: String,
    model: String,
    layout: String,
    parameters: usize,
    tensors: Vec<Origin>,
    version: &'static str,
}

/// Runs the command.
pub fn run(args: ImportArgs, global: &Global) -> Result<()> {
    let model = args.model.as_deref().map(Model::load).transpose()?;
    let layout = match args.layout {
        LayoutChoice::Auto => None,
        LayoutChoice::Torch => Some(Layout::Torch),
        LayoutChoice::Keras => Some(Layout::Keras),
    };
    let name = args.file.shown();
    // A pipe is allowed here: who imports names the file.
    let file = File::open(&args.file).with_context(|| format!("opening {name}"))?;
    let bytes = read_stream(file, MAX_FILE_BYTES).with_context(|| format!("reading {name}"))?;
    let imported = from_bytes(&bytes, model.as_ref(), layout).with_context(|| format!("importing {name}"))?;
    let folder = match &args.out {
        Some(out) => {
            refuse_trained(out)?;
            RunFolder::create(out, args.force)?
        }
        None => RunFolder::create_next(&imported.model.name)?,
    };
    folder.write_weights(MODEL_FILE, &imported.model, &imported.parameters)?;
    folder.commit()?;
    let report = ImportOutput {
        run: folder.path().shown(),
        model: imported.model.name,
        layout: imported.layout.to_string(),
        parameters: imported.parameters.iter().map(Vec::len).sum(),
        tensors: imported.origins,
        version: env!("CARGO_PKG_VERSION"),
    };
    print_result(args.json, &report, table)?;
    global.say(format!("Run: {0}. To measure its accuracy: fmnist-gpu evaluate {0}", report.run));
    Ok(())
}

/// Refuses the folder of a training run: its configuration and summary describe its own weights, and must not end up next to others.
fn refuse_trained(out: &Path) -> Result<()> {
    for name in [CONFIG_FILE, SUMMARY_FILE] {
        let path = out.join(name);
        if path.symlink_metadata().is_ok() {
            bail!(
                "{} belongs to a training run, whose weights cannot be replaced by imported ones; choose another --out",
                path.shown()
            );
        }
    }
    Ok(())
}

fn table(report: &ImportOutput) -> String {
    let width = |of: fn(&Origin) -> &String| report.tensors.iter().map(|t| of(t).chars().count()).max();
    let (parameters, names) = (width(|t| &t.parameter).unwrap_or(0), width(|t| &t.tensor).unwrap_or(0));
    let mut lines = Vec::new();
    for t in &report.tensors {
        lines.push(format!("{:<parameters$}  from {:<names$}  {} {:?}", t.parameter, t.tensor, t.dtype, t.shape));
    }
    lines.push(format!("Model {}, {} parameters, layout {}", report.model, report.parameters, report.layout));
    lines.join("\n")
}
