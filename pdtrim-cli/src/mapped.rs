//! What happens when a mapped file becomes shorter.
//!
//! Weights are used where they lie in the mapped file. Where the file has ended in the meantime, or its
//! disk fails, the system has no bytes to give and sends SIGBUS, which would end the process without a
//! word. Nothing can go on from there, but it can be said.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) use linux::{explain_lost_pages, name_mapped};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    use std::path::Path;
    use std::sync::OnceLock;

    /// Said with the checkpoint's name between the two parts.
    const SAID: [&str; 2] = [
        "error: cannot read a mapped file: it became shorter while it was in use, or its disk failed\ncaused by: ",
        ": the system sent SIGBUS\n",
    ];

    /// The checkpoint in use, as it is said.
    static MAPPED: OnceLock<String> = OnceLock::new();

    /// Remembers which checkpoint is mapped; the first of a process, since no command maps two.
    pub(crate) fn name_mapped(path: &Path) {
        let _ = MAPPED.set(path.display().to_string());
    }

    /// From now on SIGBUS ends the process with a message and the exit code of a failure.
    #[expect(unsafe_code, reason = "a call of the C library")]
    pub(crate) fn explain_lost_pages() {
        // SAFETY: the action is all zeros but for a handler that calls nothing but `write` and `_exit`, which
        // signal handlers may call, and reads a string that is never changed once it is set.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_lost_page as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    }

    #[expect(
        unsafe_code,
        reason = "what a signal handler may call is the C library's"
    )]
    extern "C" fn on_lost_page(_: libc::c_int) {
        let name = MAPPED.get().map_or("a file", String::as_str);
        for text in [SAID[0], name, SAID[1]] {
            // SAFETY: the pointer and the length are a string's.
            unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: it does not return, and runs nothing of this process.
        unsafe { libc::_exit(1) }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn explain_lost_pages() {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn name_mapped(_: &std::path::Path) {}
