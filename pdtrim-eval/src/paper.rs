//! Figures of the paper (arXiv:2509.04467), quoted beside ours where the model is one of its models.

use serde::Serialize;

/// What the paper reports of a model. None of it was measured by this tool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quoted {
    /// The model as the paper calls it.
    pub(crate) model: &'static str,
    /// Where the figures stand.
    pub(crate) source: &'static str,
    /// Average accuracy in percent, by method.
    pub(crate) average: &'static [(&'static str, f64)],
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

/// The figures for the model that the user calls `name`.
pub(crate) fn of(name: &str) -> Option<Quoted> {
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
    fn only_the_papers_models_have_figures() {
        let found = |name| of(name).map(|quoted| quoted.model);
        assert_eq!(found("meta-llama/Llama-3.1-8B"), Some("LLaMA-3.1-8B"));
        assert_eq!(found("/models/llama_2_13b_hf"), Some("LLaMA-2-13B"));
        assert_eq!(found("meta-llama/Llama-3.1-70B"), None);
        assert_eq!(found("smollm2-135m-instruct"), None);
    }
}
