//! One body, compiled for each width of vector that a CPU may have.

/// Gives a function a body for AVX-512, one for AVX2 and one for the baseline, and picks at run time.
///
/// `= body` calls `body(…)`; `= body::<T; FUSED>` calls `body::<T, true>(…)` where the CPU multiplies
/// and adds in one instruction, else `body::<T, false>(…)`: there the same would be a call of a function.
macro_rules! for_each_vector_width {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $body:ident) => {
        $crate::kernels::widths::for_each_vector_width! {
            @ $(#[$doc])* fn $name($($arg: $ty),*) $(-> $out)? = [$body] [$body] [$body]
        }
    };
    (
        $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $body:ident::<$element:ty; FUSED>
    ) => {
        $crate::kernels::widths::for_each_vector_width! {
            @ $(#[$doc])* fn $name($($arg: $ty),*) $(-> $out)? =
                [$body::<$element, true>]
                [$body::<$element, true>]
                [$body::<$element, { cfg!(target_arch = "aarch64") }>]
        }
    };
    (
        @ $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? =
            [$($avx512:tt)*] [$($avx2:tt)*] [$($baseline:tt)*]
    ) => {
        $(#[$doc])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls code compiled for features that were just detected")
        )]
        pub(super) fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,fma")]
                fn avx512($($arg: $ty),*) $(-> $out)? {
                    $($avx512)*($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $out)? {
                    $($avx2)*($($arg),*)
                }
                match $crate::kernels::widths::Vectors::detect() {
                    $crate::kernels::widths::Vectors::Baseline => {}
                    // SAFETY: the features were detected on this CPU.
                    $crate::kernels::widths::Vectors::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    _ => return unsafe { avx512($($arg),*) },
                }
            }
            $($baseline)*($($arg),*)
        }
    };
}

pub(super) use for_each_vector_width;

/// The widest vectors that this CPU has; the standard library asks the CPU once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Vectors {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// And products of bf16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Vectors {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            return match wide {
                false => Self::Avx2,
                true if is_x86_feature_detected!("avx512bf16") => Self::Avx512Bf16,
                true => Self::Avx512,
            };
        }
        Self::Baseline
    }

    /// Whether this CPU multiplies pairs of bf16.
    pub(super) fn multiply_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}
