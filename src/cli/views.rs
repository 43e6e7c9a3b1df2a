//! `--views`: by how many views of an image its class is predicted.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use fmnist_gpu::engine::Totals;
use fmnist_gpu::model::{Model, Named, Views};

/// The flag of all commands that predict.
#[derive(Clone, Copy, Debug, Args)]
pub struct ViewsArgs {
    /// Average the predictions for several views of each image [default: as the model file says, otherwise one]
    #[arg(long, value_name = "VIEWS", value_parser = views())]
    views: Option<Views>,
}

fn views() -> impl TypedValueParser<Value = Views> {
    let possible = Views::ALL.iter().map(|(name, about, _)| PossibleValue::new(*name).help(*about));
    PossibleValuesParser::new(possible).map(|name| Views::named(&name).unwrap_or_default())
}

impl ViewsArgs {
    /// The views that were asked for, or those of a model.
    pub fn of(self, model: &Model) -> Views {
        self.views.unwrap_or(model.predict.views)
    }
}

/// Says in how many views images were looked at, if there were several, and how accurate one alone is.
pub fn by_views(views: Views, one_view: Option<&Totals>) -> String {
    let one = one_view.map_or(String::new(), |one| format!("; by one view {:.4}", one.accuracy()));
    match views.list().len() {
        1 => String::new(),
        several => format!(", by {several} views{one}"),
    }
}
