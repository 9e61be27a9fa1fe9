//! What two runs of a search have in common.

/// A journal's lines but for the seconds.
pub(crate) fn untimed(journal: &[u8]) -> Vec<String> {
    let lines = std::str::from_utf8(journal).unwrap().lines();
    let untimed = |line: &str| line.split(",\"seconds\"").next().unwrap().to_owned();
    lines.map(untimed).collect()
}
