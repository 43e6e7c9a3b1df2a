//! The Python interpreter with the tools that exports are for.

use super::not_run;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// An interpreter that has everything that a script of `tests/python` imports.
pub struct Python {
    interpreter: String,
    script: &'static str,
}

impl Python {
    /// Returns the interpreter for `script`, which imports the packages `imports`.
    ///
    /// Returns `None` if there is none, which is reported, and counted in the file that `FMNIST_TEST_SKIP_LOG` names.
    ///
    /// # Panics
    /// There is none, and `FMNIST_EXPECT_PYTHON=1` requires one.
    pub fn with(script: &'static str, imports: &str) -> Option<Self> {
        let interpreter = interpreter(imports);
        if interpreter.is_none() {
            let reason = format!("there is no Python with {imports} (tests/python/setup.sh makes one)");
            not_run(script, &reason, "FMNIST_EXPECT_PYTHON");
        }
        interpreter.map(|interpreter| Python { interpreter, script })
    }

    /// Runs the script on `folders` of `place`, separated by spaces; returns whether it succeeded, and its output.
    pub fn check(&self, folders: &str, place: &Path) -> (bool, String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(self.script);
        let mut command = command(&self.interpreter);
        let output = command.arg(path).args(folders.split(' ')).current_dir(place).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        // `--nocapture` shows how closely they agree.
        println!("{}\n{said}", self.script);
        (output.status.success(), said)
    }
}

fn command(python: &str) -> Command {
    let mut command = Command::new(python);
    // No compiled files beside the scripts, no GPU, and the backend that the environment has.
    command.envs([
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("CUDA_VISIBLE_DEVICES", ""),
        ("KERAS_BACKEND", "jax"),
        ("PYTHONUTF8", "1"),
    ]);
    command
}

/// Returns the interpreter that `FMNIST_TEST_PYTHON` names, or else `python3`, if it can import the packages.
fn interpreter(imports: &str) -> Option<String> {
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    let named = NAMED.get_or_init(|| std::env::var("FMNIST_TEST_PYTHON").ok().filter(|name| !name.is_empty()));
    let python = named.clone().unwrap_or_else(|| "python3".to_string());
    let code = format!("import {imports}");
    let output = command(&python).args(["-c", &code]).output();
    let imported = output.as_ref().is_ok_and(|output| output.status.success());
    // An interpreter that is named must have the packages.
    assert!(imported || named.is_none(), "FMNIST_TEST_PYTHON={python} cannot `{code}`: {output:?}");
    imported.then_some(python)
}
