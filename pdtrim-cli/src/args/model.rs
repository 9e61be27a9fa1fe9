use burn::tensor::DType;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// The model of the embedded default run.
pub(crate) const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Which model, in which element type, where.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ModelArgs {
    /// A folder, a .gguf file, a Hugging Face id (org/name or org/name@revision) or a known name
    /// [default: smollm2-135m-instruct].
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Element type to run in [default: f32 on the CPU, bf16 on CUDA].
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DtypeArg>,
    /// cpu, cuda or cuda:N [default: cpu].
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Hold one block's weights at a time and read the others when they are run: for models that do not
    /// fit into memory. Slower, and slowest to generate.
    #[arg(long)]
    pub(crate) one_block: bool,
    /// Use the caches only, no network.
    #[arg(long)]
    pub(crate) offline: bool,
}

impl ModelArgs {
    /// The same as flags, for another process.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let dtype = self.dtype.and_then(|dtype| dtype.to_possible_value());
        let dtype = dtype.map(|value| value.get_name().to_owned());
        for (flag, value) in [
            ("--model", self.model.clone()),
            ("--dtype", dtype),
            ("--device", self.device.clone()),
        ] {
            flags.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        }
        for (flag, set) in [("--one-block", self.one_block), ("--offline", self.offline)] {
            flags.extend(set.then(|| flag.to_owned()));
        }
        flags
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DtypeArg {
    F32,
    Bf16,
    F16,
}

impl DtypeArg {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}
