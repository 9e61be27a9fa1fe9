//! From a device's name to a Burn device. The only place that asks which backends were compiled in.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device};

use crate::error::{Error, Result};
use crate::units::Bytes;

/// A device as a user names it: `cpu` (Burn's flex backend), `cuda` or `cuda:1`.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::device::DeviceSpec;
///
/// let cpu: DeviceSpec = "cpu".parse()?;
/// let device = cpu.open()?;
/// assert_eq!(cpu.default_dtype(), DType::F32);
/// assert_eq!("cuda:1".parse::<DeviceSpec>()?, DeviceSpec::Cuda(1));
/// # let _ = device;
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// The CPU, by Burn's flex backend.
    #[default]
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
}

impl DeviceSpec {
    /// The device, ready for tensors.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if this build or this machine cannot use it. Burn itself would panic in a
    /// worker thread.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
        }
    }

    /// The element type that runs best there: f32 on the CPU, bf16 on CUDA.
    pub fn default_dtype(self) -> DType {
        match self {
            Self::Cpu => DType::F32,
            Self::Cuda(_) => DType::BF16,
        }
    }
}

/// Memory that programs can still have, where the system tells (Linux).
///
/// ```
/// use pdtrim_core::Bytes;
/// use pdtrim_core::device::available_memory;
///
/// // Enough for the weights, where the system tells?
/// let weights = Bytes(98_362_432);
/// let fits = available_memory().is_none_or(|free| free > weights);
/// # let _ = fits;
/// ```
pub fn available_memory() -> Option<Bytes> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(Bytes(kib << 10))
}

/// What this machine's CPU computes at best, in FLOP/s: the best of many products of `dtype` (f32 or
/// bf16) that stay in the nearest cache, on every thread at once. Takes about a tenth of a second.
///
/// Measured with the inner loop of this crate's own matrix product, which no other CPU library at hand
/// beats; what a model reaches is held against it.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::device::host_peak_flops;
///
/// println!("{:.1} GFLOP/s", host_peak_flops(DType::F32) / 1e9);
/// ```
pub fn host_peak_flops(dtype: DType) -> f64 {
    crate::kernels::host_peak_flops(dtype)
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device> {
    let refused = |missing| Error::Device {
        device: format!("cuda:{index}"),
        missing,
    };
    // Burn's worker threads panic where the driver's library is absent, so it is looked for first.
    if !cuda::driver_is_present() {
        return Err(refused(
            "the CUDA driver library (libcuda) was not found on this machine",
        ));
    }
    if index >= cuda::n_devices() {
        return Err(refused("the CUDA driver reports no device of that index"));
    }
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> Result<Device> {
    let device = format!("cuda:{index}");
    Err(Error::Device {
        device,
        missing: "this build has no CUDA support; build it with `--features cuda`",
    })
}

#[cfg(feature = "cuda")]
mod cuda {
    use cudarc::driver::{result, sys};

    #[expect(
        unsafe_code,
        reason = "asks the dynamic linker for a library, whose initialisers run"
    )]
    pub(super) fn driver_is_present() -> bool {
        // SAFETY: loading libcuda runs the vendor's initialisers, as any CUDA program does at start.
        unsafe { sys::is_culib_present() }
    }

    pub(super) fn n_devices() -> usize {
        let count = result::init().and_then(|()| result::device::get_count());
        count
            .ok()
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::Choice {
            field: "device",
            expected: "cpu, cuda or cuda:N",
            found: text.to_owned(),
        };
        match text {
            "cpu" | "flex" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text
                    .strip_prefix("cuda:")
                    .and_then(|index| index.parse().ok());
                index.map(Self::Cuda).ok_or_else(refused)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_parse_back() {
        for name in ["cpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceSpec>().unwrap().to_string(), name);
        }
        assert!("gpu".parse::<DeviceSpec>().is_err());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_without_the_feature_says_what_is_missing() {
        let error = DeviceSpec::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
