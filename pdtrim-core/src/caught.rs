//! Libraries that assert what they assume of a file.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `work` gives, or what the library in it said when it panicked. For readers of untrusted files that are not
/// ours: nothing of what `work` changed may be used after a panic.
///
/// # Errors
///
/// The panic's message.
///
/// ```
/// use pdtrim_core::caught;
///
/// assert_eq!(caught(|| 1 + 1), Ok(2));
/// let said = caught(|| panic!("a header of 3 bytes")).unwrap_err();
/// assert!(said.ends_with("a header of 3 bytes"));
/// ```
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(panic.as_ref()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    format!(
        "the library gave up: {}",
        said.unwrap_or("it does not say why")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        let bytes = [1_u8];
        let said = caught(|| bytes[std::hint::black_box(1)]).unwrap_err();
        assert!(said.contains("the len is 1 but the index is 1"), "{said}");
        let said = caught(|| panic!("{}", "x")).unwrap_err();
        assert_eq!(said, "the library gave up: x");
    }
}
