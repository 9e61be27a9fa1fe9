//! Progress on stderr: bars with time left on a terminal, one line for each step elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// How much a run tells while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Silent,
    Lines,
    Bars,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Silent,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }

    /// A line that stays.
    pub(crate) fn say(self, line: &str) {
        if self != Self::Silent {
            output::note(line);
        }
    }

    /// A step of `total` units; a line announces it where there is no terminal.
    pub(crate) fn step(self, what: &str, total: usize) -> Step {
        let bar = match self {
            Self::Bars => {
                let bar = ProgressBar::new(total as u64);
                let style = ProgressStyle::with_template(
                    "{msg:28} [{bar:30}] {pos}/{len} {elapsed} +{eta}",
                );
                bar.set_style(
                    style
                        .expect("the template is written out here")
                        .progress_chars("=> "),
                );
                bar.enable_steady_tick(Duration::from_millis(250));
                bar.set_message(what.to_owned());
                bar
            }
            Self::Lines => {
                output::note(&format!("{what} …"));
                ProgressBar::hidden()
            }
            Self::Silent => ProgressBar::hidden(),
        };
        Step { bar }
    }

    /// A step whose size the search tells while it runs.
    pub(crate) fn search(self, what: &str) -> SearchStep {
        SearchStep {
            step: self.step(what, 0),
            planned: 0,
            settled: 0,
        }
    }
}

/// A running step; its bar goes when it is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    bar: ProgressBar,
}

impl Step {
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    pub(crate) fn set_total(&self, total: usize) {
        self.bar.set_length(total as u64);
    }

    pub(crate) fn set_done(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    pub(crate) fn set_message(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

/// A running search: how much is planned and settled, as its strategy tells.
pub(crate) struct SearchStep {
    step: Step,
    planned: usize,
    settled: usize,
}

impl SearchStep {
    pub(crate) fn hear(&mut self, event: &pdtrim_search::Step) {
        use pdtrim_search::Step::{Chosen, Evaluated, Planned, Settled};
        match event {
            Planned(evaluations) => {
                self.planned += evaluations;
                self.step.set_total(self.planned);
            }
            Settled(evaluations) => {
                self.settled += evaluations;
                self.step.set_done(self.settled);
            }
            Evaluated(_) | Chosen { .. } => {}
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
