//! The program: parse, run, print the cause chain, exit code; nothing else.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fmnist-gpu: {}", cli::with_causes(&error));
            ExitCode::from(2)
        }
    }
}
