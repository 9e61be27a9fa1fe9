//! Names that a user may have meant.

/// Below this similarity (0 to 1) a name is no likely slip of the keyboard.
const SIMILAR: f64 = 0.7;
/// More suggestions would only be a list.
const MOST: usize = 3;

/// What to say after "unknown x `name`": the known names most like it, or all of them when none is.
pub(crate) fn hint<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let mut near: Vec<(f64, &str)> = known
        .iter()
        .map(|&other| (strsim::normalized_damerau_levenshtein(name, other), other))
        .filter(|(similarity, other)| *similarity >= SIMILAR || begins(other, name))
        .collect();
    near.sort_by(|one, two| two.0.total_cmp(&one.0));
    near.truncate(MOST);
    if near.is_empty() {
        return format!("the known ones are {}", known.join(", "));
    }
    let near: Vec<String> = near.iter().map(|(_, name)| format!("`{name}`")).collect();
    format!("did you mean {}?", near.join(" or "))
}

/// `arc` for `arc_easy`, say.
fn begins(other: &str, name: &str) -> bool {
    name.len() > 2 && other.starts_with(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first_and_all_when_none_is_near() {
        let known = ["piqa", "arc_easy", "arc_challenge", "boolq"];
        assert_eq!(hint("picqa", known), "did you mean `piqa`?");
        assert_eq!(
            hint("arc", known),
            "did you mean `arc_easy` or `arc_challenge`?"
        );
        assert_eq!(
            hint("xyz", known),
            "the known ones are piqa, arc_easy, arc_challenge, boolq"
        );
    }
}
