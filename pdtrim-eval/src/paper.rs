//! Figures of the paper (arXiv:2509.04467), quoted beside ours where the model is one of its models.

use serde::Serialize;

use crate::mode::Mode;

/// What the paper reports of a model. None of it was measured by this tool.
///
/// ```
/// use pdtrim_eval::{Mode, paper};
///
/// let quoted = paper::of("meta-llama/Llama-3.1-8B").expect("one of the paper's models");
/// assert_eq!(quoted.average_of("shortgpt", Mode::Unified), Some(56.08));
/// assert!(paper::of("another-model").is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quoted {
    /// The model as the paper calls it.
    pub model: &'static str,
    /// Where the figures stand.
    pub source: &'static str,
    /// Average accuracy in percent, by method.
    pub average: &'static [(&'static str, f64)],
}

const LLAMA_3_1_8B: Quoted = Quoted {
    model: "LLaMA-3.1-8B",
    source: "arXiv:2509.04467, average over its benchmarks",
    average: &[
        ("dense", 65.46),
        ("LLM-Pruner", 56.07),
        ("FLAP", 56.11),
        ("Shortened", 53.66),
        ("ShortGPT", 56.08),
        ("SLEB", 48.42),
        ("PDTrim", 62.99),
    ],
};

const LLAMA_2_13B: Quoted = Quoted {
    model: "LLaMA-2-13B",
    source: "arXiv:2509.04467, average over its benchmarks",
    average: &[("PDTrim, unified", 47.31), ("PDTrim, disaggregated", 49.50)],
};

impl Quoted {
    /// The average accuracy in percent that the paper gives a strategy in a mode, at the paper's own
    /// number of removed blocks. It compares one-machine methods with its own disaggregated one, so a
    /// method's figure without a mode is that of `unified`, and PDTrim's that of `pd`. A variant is its
    /// method: `shortened-ppl` is `Shortened`.
    pub fn average_of(&self, strategy: &str, mode: Mode) -> Option<f64> {
        let (own, setting) = match mode {
            Mode::Dense => return self.named("dense"),
            Mode::Unified => (strategy != "pdtrim", "unified"),
            Mode::Pd | Mode::PdKv => (strategy == "pdtrim", "disaggregated"),
        };
        let first = strategy.split('-').next().unwrap_or(strategy);
        let method = if self.named(strategy).is_some() {
            strategy
        } else {
            first
        };
        let named = self.named(&format!("{method}, {setting}"));
        named.or_else(|| own.then(|| self.named(method)).flatten())
    }

    fn named(&self, name: &str) -> Option<f64> {
        let mut found = self.average.iter();
        let found = found.find(|(method, _)| method.eq_ignore_ascii_case(name));
        found.map(|(_, average)| *average)
    }
}

/// The paper's figures for the model that the user calls `name`, if it is one of the paper's.
///
/// ```
/// assert_eq!(pdtrim_eval::paper::of("Llama-2-13b-hf").map(|paper| paper.model), Some("LLaMA-2-13B"));
/// ```
pub fn of(name: &str) -> Option<Quoted> {
    let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
    let is = |parts: [&str; 2]| parts.iter().all(|part| name.contains(part));
    if is(["llama-3-1", "8b"]) {
        Some(LLAMA_3_1_8B)
    } else if is(["llama-2", "13b"]) {
        Some(LLAMA_2_13B)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_has_the_figure_of_the_mode_that_the_paper_measured_it_in() {
        let large = of("meta-llama/Llama-3.1-8B").unwrap();
        let found = |strategy, mode| large.average_of(strategy, mode);
        assert_eq!(found("sleb", Mode::Unified), Some(48.42));
        assert_eq!(found("sleb", Mode::Pd), None);
        assert_eq!(found("llm-pruner", Mode::Unified), Some(56.07));
        assert_eq!(found("shortened-ppl", Mode::Unified), Some(53.66));
        assert_eq!(found("pdtrim", Mode::Pd), Some(62.99));
        assert_eq!(found("pdtrim", Mode::Unified), None);
        assert_eq!(found("random", Mode::Unified), None);
        assert_eq!(found("sleb", Mode::Dense), Some(65.46));
        let other = of("llama-2-13b").unwrap();
        assert_eq!(other.average_of("pdtrim", Mode::Unified), Some(47.31));
        assert_eq!(other.average_of("pdtrim", Mode::Pd), Some(49.50));
    }

    #[test]
    fn only_the_papers_models_have_figures() {
        let found = |name| of(name).map(|quoted| quoted.model);
        assert_eq!(found("meta-llama/Llama-3.1-8B"), Some("LLaMA-3.1-8B"));
        assert_eq!(found("/models/llama_2_13b_hf"), Some("LLaMA-2-13B"));
        assert_eq!(found("meta-llama/Llama-3.1-70B"), None);
        assert_eq!(found("smollm2-135m-instruct"), None);
    }
}
