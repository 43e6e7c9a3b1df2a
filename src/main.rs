//! The program: parse, run, print the cause chain, exit code; nothing else.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            // `{:#}` joins the chain of causes.
            eprintln!("fmnist-gpu: {error:#}");
            ExitCode::from(2)
        }
    }
}
