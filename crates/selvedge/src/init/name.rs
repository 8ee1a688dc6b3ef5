//! An app's name out of whatever a project or its directory is called.

use selvedge_model::AppName;

/// The longest label of a host name.
const MAX_BYTES: usize = 63;

/// The first of `candidates` that a name can be made of. Scopes such as `@acme/` are left out, and
/// letters that a host name does not have become hyphens.
pub(crate) fn app_name<'c>(candidates: impl IntoIterator<Item = &'c str>) -> Option<AppName> {
    candidates.into_iter().find_map(from)
}

fn from(text: &str) -> Option<AppName> {
    let own = text.rsplit('/').next().unwrap_or(text);
    let mut name = String::new();
    for c in own.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name = name.get(..name.len().min(MAX_BYTES)).unwrap_or_default().trim_end_matches('-');
    AppName::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_what_there_is() {
        for (candidates, want) in [
            (&["shop"][..], Some("shop")),
            (&["@acme/Shop_Front"], Some("shop-front")),
            (&["42 is the answer"], Some("is-the-answer")),
            (&["größe"], Some("gr-e")),
            (&["---", "", "日本", "second"], Some("second")),
            (&["trailing.-"], Some("trailing")),
            (&["数", "9"], None),
        ] {
            let name = app_name(candidates.iter().copied());
            assert_eq!(name.as_ref().map(AppName::as_str), want, "{candidates:?}");
        }
        let long = app_name([format!("{}-x", "a".repeat(62)).as_str()]).unwrap();
        assert_eq!(long.as_str(), "a".repeat(62));
    }
}
