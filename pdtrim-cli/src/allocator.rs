//! Settings of the system's allocator.

/// Keeps freed memory for the next tensor. glibc would give the top of its heap back to the system
/// after every large tensor and have the next one's pages cleared anew, which took an eighth of the
/// time of a pass over 8192 tokens.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call of the C library")]
pub(crate) fn keep_memory() {
    // The most that glibc accepts: larger tensors are mapped, and cleared, one by one.
    const MAPPED_FROM: libc::c_int = 32 << 20;
    // SAFETY: both calls set a number and are made before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_memory() {}
