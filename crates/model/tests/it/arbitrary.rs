//! Whatever the text, the parser answers, and what it answers is sound.

use std::collections::BTreeSet;

use proptest::prelude::*;
use selvedge_model::App;
use selvedge_model::manifest;

const FULL: &str = include_str!("../golden/accepted/everything.toml");

/// What every accepted app keeps, and every refusal.
fn check(text: &str) {
    match manifest::parse("selvedge.toml", text) {
        Ok(app) => check_app(&app),
        Err(found) => {
            assert!(!found.is_empty());
            let lines = text.lines().count() as u32 + 1;
            for diagnostic in found {
                assert!((1..=lines).contains(&diagnostic.line), "{diagnostic}");
                assert!(!diagnostic.message.is_empty() && !diagnostic.mend.is_empty());
                let shown = diagnostic.to_string();
                assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
            }
        }
    }
}

fn check_app(app: &App) {
    let names: BTreeSet<_> = app.services.iter().map(|service| &service.name).collect();
    assert!(!names.is_empty() || !app.redirects.is_empty());
    assert_eq!(names.len(), app.services.len());
    assert!(manifest::find_loop(app, &[]).is_none());
    let routed: BTreeSet<_> = app.routes.iter().map(|route| &route.service).collect();
    assert_eq!(names, routed);
    assert!(app.placement.min_sites >= 1);
    assert!(app.placement.max_sites.is_none_or(|max| max >= app.placement.min_sites));
    assert!(app.placement.include.is_disjoint(&app.placement.exclude));
}

/// A valid file with some of its lines dropped, doubled, swapped or garbled.
fn mutated() -> impl Strategy<Value = String> {
    let input = FULL.split("----------").next().unwrap_or_default();
    let lines: Vec<String> = input.lines().map(str::to_owned).collect();
    let edits = prop::collection::vec((0..lines.len(), 0..lines.len(), 0..5_u8, ".{0,4}"), 1..6);
    edits.prop_map(move |edits| {
        let mut lines = lines.clone();
        for (at, other, kind, noise) in edits {
            match kind {
                0 => lines[at].clear(),
                1 => lines[at] = lines[other].clone(),
                2 => lines.swap(at, other),
                3 => lines[at].push_str(&noise),
                _ => {
                    let end = lines[at].char_indices().nth(other).map_or(0, |(end, _)| end);
                    lines[at].insert_str(end, &noise);
                }
            }
        }
        lines.join("\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn text_that_looks_like_a_manifest(text in "(\\[{1,2}(app|service|route|redirect|x)\\]{1,2}\n|(name|kind|root|path|host|hosts|memory|from|to|rewrite|addresses) ?= ?(\"[a-z/*. ]{0,6}\"|[0-9]{1,20}|\\[\"a\", 1\\]|\\{ a = \"\u{7}\" \\})\n){0,12}") {
        check(&text);
    }

    #[test]
    fn mutated_files(text in mutated()) {
        check(&text);
    }

    #[test]
    fn discovery(paths in prop::collection::vec("([ab]/){0,3}(selvedge.toml|x)", 0..8)) {
        if let Ok(found) = manifest::discover(paths.iter().map(String::as_str)) {
            assert!(!found.is_empty());
        }
    }
}
