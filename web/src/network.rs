//! A trained model, with the run that it came from.

use crate::computer::Computer;
use crate::data::Data;
use crate::figure::{Figure, maps};
use crate::{failed, json};
use fmnist_gpu::data::{Dataset, FASHION_MNIST};
use fmnist_gpu::export::{Facts, onnx};
use fmnist_gpu::model::weights;
use fmnist_gpu::report::maps::filters;
use fmnist_gpu::report::predictions_png;
use fmnist_gpu::report::run_page::{File, Report, report_files};
use fmnist_gpu::run::{RunConfig, RunFiles, Summary, archive};
use fmnist_gpu::session::views;
use fmnist_gpu::train::EpochRecord;
use js_sys::{Float32Array, Function, Promise, Uint8Array};
use serde::Serialize;
use std::ops::ControlFlow;
use std::rc::Rc;
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};
use wasm_bindgen_futures::future_to_promise;

/// A trained model with what is known of its training.
#[wasm_bindgen]
pub struct Network {
    pub(crate) run: RunFiles,
    /// Of the test images, if they were evaluated.
    probabilities: Vec<f32>,
    /// The files of the report, if they were.
    report: Vec<File>,
    /// What the visitor should know.
    pub(crate) remark: Option<String>,
}

impl From<RunFiles> for Network {
    fn from(run: RunFiles) -> Self {
        Network { run, probabilities: Vec::new(), report: Vec::new(), remark: None }
    }
}

#[derive(Serialize)]
struct Described<'a> {
    model: &'a str,
    parameters: usize,
    config: &'a Option<RunConfig>,
    summary: &'a Option<Summary>,
    history: &'a [EpochRecord],
    remark: &'a Option<String>,
    /// Whether it can be trained further.
    can_resume: bool,
    files: Vec<&'a str>,
}

#[wasm_bindgen]
impl Network {
    /// A run from its files, or from a zip archive of them, or a weight file.
    pub fn open(names: Vec<String>, contents: Vec<Uint8Array>) -> Result<Network, JsError> {
        let mut files: archive::Files = names.into_iter().zip(contents.iter().map(Uint8Array::to_vec)).collect();
        let packed = files.iter().find(|(name, _)| files.len() == 1 && name.to_lowercase().ends_with(".zip"));
        if let Some((_, bytes)) = packed {
            files = archive::unpack(bytes).map_err(failed)?;
        }
        Ok(RunFiles::open(&files).map_err(failed)?.into())
    }

    /// Model, configuration, summary and history as JSON.
    pub fn describe(&self) -> String {
        let RunFiles { model, parameters, config, history, summary, checkpoint } = &self.run;
        json(&Described {
            model: &model.name,
            parameters: parameters.iter().map(Vec::len).sum(),
            config,
            summary,
            history,
            remark: &self.remark,
            can_resume: config.is_some() && checkpoint.is_some(),
            files: self.report.iter().map(|file| file.name.as_str()).collect(),
        })
    }

    /// A file of the report.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.report.iter().find(|file| file.name == name).map(|file| file.bytes.clone())
    }

    /// The run folder as a zip archive.
    pub fn zip(&self, name: &str) -> Result<Vec<u8>, JsError> {
        let mut files = self.run.files().map_err(failed)?;
        files.extend(self.report.iter().map(|file| (file.name.clone(), file.bytes.clone())));
        archive::pack(name, &files).map_err(failed)
    }

    /// `model.safetensors`.
    pub fn safetensors(&self) -> Result<Vec<u8>, JsError> {
        weights::to_bytes(&self.run.model, &self.run.parameters).map_err(failed)
    }

    /// The model for onnxruntime and its kind.
    pub fn onnx(&self) -> Result<Vec<u8>, JsError> {
        let dataset = self.run.config.as_ref().map(|config| config.dataset);
        let test_accuracy = self.run.summary.as_ref().and_then(|summary| summary.test_accuracy);
        let facts = Facts { dataset, test_accuracy, ..Facts::new(&FASHION_MNIST) };
        onnx::to_bytes(&self.run.model, &self.run.parameters, &facts).map_err(failed)
    }

    /// The filters of the first layer; null where there is nothing to draw.
    pub fn filters(&self) -> Result<Option<Figure>, JsError> {
        let drawn = filters(&self.run.model, &self.run.parameters).map_err(failed)?;
        drawn.as_ref().map(Figure::new).transpose()
    }

    /// What each layer makes of an image, `[28, 28]`.
    pub fn maps(&self, image: &[u8]) -> Result<Vec<Figure>, JsError> {
        maps(&self.run.model, &self.run.parameters, image)
    }

    /// Promises the probabilities of the classes of each image, by the views of the model; `on_progress` is told how many images are done. The
    /// network may be freed meanwhile.
    pub fn predict(&self, computer: &Computer, images: Vec<u8>, on_progress: Option<Function>) -> Promise {
        let RunFiles { model, parameters, .. } = &self.run;
        let (device, views) = (Rc::clone(&computer.device), model.predict.views);
        let engine = device.evaluator(model, parameters);
        future_to_promise(async move {
            let mut engine = engine.map_err(failed)?;
            let tell = &mut |images: usize| {
                // Whatever the page does with it.
                on_progress.as_ref().map(|tell| tell.call1(&JsValue::NULL, &JsValue::from(images as f64)));
                ControlFlow::Continue(())
            };
            let probabilities = views::predict(&mut *engine, &images, views, tell).await.map_err(failed)?;
            Ok(Float32Array::from(&probabilities[..]).into())
        })
    }

    /// Takes the probabilities of the test images, and draws the report.
    pub fn report(&mut self, data: &Data, probabilities: Vec<f32>) -> Result<(), JsError> {
        self.draw_report(&data.dataset, probabilities)
    }

    /// The first 25 test images with their predictions: the bytes of a PNG. Fails before an evaluation.
    pub fn predictions(&self, data: &Data) -> Result<Vec<u8>, JsError> {
        let Dataset { test, description, .. } = &*data.dataset;
        let known = self.probabilities.len() / description.classes();
        let indices: Vec<usize> = (0..test.len().min(25).min(known)).collect();
        predictions_png(test, &indices, &self.probabilities, description).map_err(failed)
    }
}

impl Network {
    /// Keeps the probabilities of the test images, and draws what follows from them.
    pub(crate) fn draw_report(&mut self, dataset: &Dataset, probabilities: Vec<f32>) -> Result<(), JsError> {
        let RunFiles { model, parameters, config, history, summary, .. } = &self.run;
        let model_file = weights::to_bytes(model, parameters).map_err(failed)?;
        let report = Report {
            name: model.name.clone(),
            model,
            parameters,
            config: config.as_ref(),
            repeat: None,
            summary: summary.as_ref(),
            history,
            dataset: dataset.kind,
            description: &dataset.description,
            test: &dataset.test,
            probabilities: &probabilities,
            image: 0,
            model_file: &model_file,
        };
        let (_, files) = report_files(&report, None).map_err(failed)?;
        (self.report, self.probabilities) = (files, probabilities);
        Ok(())
    }
}
