//! The built-in models: files of the folder `models`, to be read and copied.

use super::{Model, ModelFile};
use std::path::Path;

/// The built-in models by name, each with its file.
const FILES: [(&str, &str); 5] = [
    ("mlp", include_str!("../../models/mlp.toml")),
    ("cnn", include_str!("../../models/cnn.toml")),
    ("tiny", include_str!("../../models/tiny.toml")),
    ("fast", include_str!("../../models/fast.toml")),
    ("best", include_str!("../../models/best.toml")),
];

/// The model `tiny` after its training, in half precision: the bytes of a weight file. `assets/README.md` says how they were made.
pub const TRAINED_TINY: &[u8] = include_bytes!("../../assets/tiny.safetensors");

impl ModelFile {
    /// Returns the built-in model of this name, with its recipe.
    pub fn built_in(name: &str) -> Option<Self> {
        let file = ModelFile::parse(Path::new(name), Self::built_in_text(name)?);
        Some(ModelFile { path: None, ..file.expect("a test parses all of these files") })
    }

    /// Returns the text of the file of the built-in model of this name.
    pub fn built_in_text(name: &str) -> Option<&'static str> {
        FILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }
}

impl Model {
    /// Returns the article's first model, "without CNN": 101,770 parameters.
    pub fn mlp() -> Self {
        Model::named("mlp")
    }

    /// Returns the article's second model, "with CNN": 421,642 parameters.
    pub fn cnn() -> Self {
        Model::named("cnn")
    }

    /// Returns the built-in models: those of the article, then those with a recipe of their own, from the smallest to the best.
    pub fn built_in() -> [Model; 5] {
        FILES.map(|(name, _)| Model::named(name))
    }

    fn named(name: &str) -> Self {
        ModelFile::built_in(name).expect("the name of a built-in model").model
    }
}
