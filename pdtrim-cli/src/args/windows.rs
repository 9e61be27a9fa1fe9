use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use pdtrim_search::calibration::{CalibrationSource, WindowDraw};

/// The windows that something is measured on.
#[derive(Args, Clone, Debug)]
pub(crate) struct WindowArgs {
    /// What is measured on, as `trim --calibration` takes it.
    #[arg(long, value_name = "SOURCE", default_value = "prose")]
    pub(crate) calibration: CalibrationSource,
    /// Items to draw from a source that has some [default: 256, or all if there are fewer].
    #[arg(long, value_name = "N")]
    pub(crate) calibration_items: Option<NonZeroUsize>,
    /// Calibration windows.
    #[arg(long, default_value = "8", value_name = "N")]
    pub(crate) windows: NonZeroUsize,
    /// Tokens in a window; three quarters are its prompt.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) window_tokens: NonZeroUsize,
    /// Folder with the published files of tasks and calibration sources.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

impl WindowArgs {
    /// The calibration windows of a seed.
    pub(crate) fn draw(&self, seed: u64) -> WindowDraw {
        WindowDraw {
            seed,
            items: self.calibration_items.map(Into::into),
            windows: self.windows.get(),
            window_tokens: self.window_tokens.get(),
        }
    }
}
