//! `fmnist-gpu completions` and `fmnist-gpu man`

use super::{Cli, Global, print};
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use fmnist_gpu::files::{ShownPath, write_whole};
use std::path::PathBuf;

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to generate completions for
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a completion script.
pub fn run(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fmnist-gpu", &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write one page for the program and one per command into this folder, instead of printing the page of the program
    #[arg(long, value_name = "DIR", value_parser = super::output_path())]
    out: Option<PathBuf>,
    /// Overwrite existing pages
    #[arg(long)]
    force: bool,
}

/// Prints the manual page of the program, or writes all pages.
pub fn run_man(args: ManArgs, global: &Global) -> Result<()> {
    let mut program = Cli::command();
    // Adds the flags that commands inherit, such as --quiet.
    program.build();
    let Some(folder) = args.out else {
        print(page(program)?.trim_end());
        return Ok(());
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("creating the folder {}", folder.shown()))?;
    let commands: Vec<clap::Command> = program.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
    let pages = 1 + commands.len();
    for command in std::iter::once(program).chain(commands) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
        let path = folder.join(format!("{name}.1"));
        write_whole(&path, page(command)?.as_bytes(), args.force).context("writing a manual page")?;
    }
    global.say(format!("{pages} pages in {}", folder.shown()));
    Ok(())
}

fn page(command: clap::Command) -> Result<String> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text).context("generating the manual page")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
