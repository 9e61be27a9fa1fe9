use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdtrim_core::Bytes;
use pdtrim_core::checkpoint::ExportForm;
use pdtrim_core::checkpoint::gguf::OutputType;

use super::DtypeArg;

/// Write a Hugging Face folder, a GGUF file, or an ONNX file.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A model (the dense model is written) or a plan file ending in .toml (one of its stages is).
    pub(crate) source: String,
    /// The folder to write, or the file with --gguf or --onnx.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The stage of the plan.
    #[arg(long, value_enum)]
    pub(crate) stage: Option<StageArg>,
    /// The model of the plan, if the name in the plan does not lead to it.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// What the folder looks like.
    #[arg(long, value_enum, default_value_t = FormArg::Plain)]
    pub(crate) form: FormArg,
    /// Element type of the written weights.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub(crate) dtype: DtypeArg,
    /// Size above which the weights are split into several files, in B, KB, MB or GB of 1000.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "5GB")]
    pub(crate) max_shard_size: Bytes,
    /// Write one GGUF file for llama.cpp instead, with matrices of this element type.
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with_all = ["form", "dtype", "max_shard_size"])]
    pub(crate) gguf: Option<GgufArg>,
    /// Write one ONNX file instead, from this many token ids to their logits, in f32; for builds with the feature onnx.
    #[arg(long, value_name = "TOKENS", conflicts_with_all = ["form", "dtype", "max_shard_size", "gguf"])]
    pub(crate) onnx: Option<usize>,
    /// Use the caches only, no network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Write into a folder that has something in it, and replace an older export there, or the file.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageArg {
    Prefill,
    Decode,
    /// Both, of a plan whose stages are the same.
    Unified,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormArg {
    /// The stock architecture with fewer layers.
    Plain,
    /// All layer numbers, removed layers as no-ops without weights, for vLLM's class for such models.
    Noop,
    /// The stock architecture with all layers, removed ones silenced by zeros: it saves nothing.
    Identity,
}

impl FormArg {
    pub(crate) fn form(self) -> ExportForm {
        match self {
            Self::Plain => ExportForm::Plain,
            Self::Noop => ExportForm::NoOp,
            Self::Identity => ExportForm::Identity,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GgufArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl GgufArg {
    pub(crate) fn weights(self) -> OutputType {
        match self {
            Self::F32 => OutputType::F32,
            Self::F16 => OutputType::F16,
            Self::Bf16 => OutputType::BF16,
            Self::Q8_0 => OutputType::Q8_0,
        }
    }
}

/// A number of bytes with a decimal unit, as Hugging Face writes it.
fn size(text: &str) -> Result<Bytes, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => Some(1),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number
        .zip(unit)
        .and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes > 0 => Ok(Bytes(bytes)),
        _ => Err("expected a whole number above 0 with B, KB, MB or GB, as in 5GB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(size("5GB"), Ok(Bytes(5_000_000_000)));
        assert_eq!(size("200kb"), Ok(Bytes(200_000)));
        assert_eq!(size("17"), Ok(Bytes(17)));
        for wrong in ["", "0", "GB", "-1MB", "5GiB", "1.5GB", "99999999999GB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
