//! Tells settings that only name a registry from those that hold a credential for it. What a build
//! may read, it may send away, so the latter are kept from programs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Settings of package managers for the whole machine: npm's "global" file is below its prefix,
/// that of Debian's npm in /etc.
pub(crate) const FILES: &[&str] =
    &["/etc/npmrc", "/etc/pip.conf", "/usr/etc/npmrc", "/usr/local/etc/npmrc"];

/// What in a setting's name says that its value is a credential or leads to one: `_auth`,
/// `_authToken`, `_password`, `username`, npm's `key` and pip's `client-cert`.
const NAMES: &[&str] = &["_auth", "password", "username", "token", "secret", "client-cert", "otp"];

const PRIVATE_KEY: &str = "PRIVATE KEY";

const MAX_FILE_BYTES: u64 = 256 * 1024;

/// A file of settings as programs may read it; `None` when it holds a credential or can't be
/// judged, because it can't be read or is too large.
pub(crate) fn file_without(path: &Path) -> Option<String> {
    let mut text = String::new();
    // One byte more than is taken, to know whether there is more.
    File::open(path).ok()?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).ok()?;
    let whole = u64::try_from(text.len()).is_ok_and(|length| length <= MAX_FILE_BYTES);
    (whole && !are_in_settings(&text)).then_some(text)
}

/// The files among [`FILES`] that programs don't see.
pub(crate) fn withheld_files() -> Vec<&'static str> {
    let withheld = |file: &&str| Path::new(file).is_file() && file_without(file.as_ref()).is_none();
    FILES.iter().copied().filter(withheld).collect()
}

/// Whether lines of `name = value`, as npm and pip have them, hold a credential. Comments count:
/// an old password is one.
pub(crate) fn are_in_settings(text: &str) -> bool {
    are_in_value(text)
        || text.lines().any(|line| {
            let line = line.trim_start_matches(['#', ';', ' ', '\t']);
            let name = line.split_once('=').map_or(line, |(name, _)| name).to_ascii_lowercase();
            NAMES.iter().any(|word| name.contains(word))
                || name.rsplit(':').next().is_some_and(|last| last.trim() == "key")
        })
}

/// Whether a value holds a credential: a private key, or a URL with a user's name or password
/// (RFC 3986 3.2.1).
pub(crate) fn are_in_value(value: &str) -> bool {
    value.contains(PRIVATE_KEY)
        || value.split("//").skip(1).any(|rest| {
            let ends = |letter: char| {
                matches!(letter, '/' | '?' | '#' | '\\' | '"' | '\'') || letter.is_whitespace()
            };
            rest.split(ends).next().is_some_and(|authority| authority.contains('@'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_credentials_in_settings() {
        for text in [
            "//registry.example/:_authToken=abc",
            "fund=false\n_auth = YWJj\n",
            "//registry.example/:_password=abc",
            "  //registry.example/:username=me",
            "; _authToken=old",
            "//registry.example/:keyfile=x\nkey=\"-----BEGIN PRIVATE KEY-----\"",
            "[global]\nindex-url = https://me:pass@registry.example/simple",
            "[global]\nextra-index-url =\n    https://one.example/\n    https://me@two.example/",
            "registry=//me:pass@registry.example/",
            "[global]\nclient-cert = /etc/pip.pem",
        ] {
            assert!(are_in_settings(text), "{text}");
        }
        for text in [
            "",
            "registry=https://registry.example/npm/\n@mine:registry=https://other.example/\n",
            "# who to ask: me@example.com\naudit=false\nnodedir=/usr\n",
            "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 60\n",
            "[global]\nindex-url = https://registry.example/simple/@scope?x=a@b\n",
        ] {
            assert!(!are_in_settings(text), "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_judged_is_not_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("npmrc");
        assert_eq!(file_without(&file), None);
        std::fs::write(&file, "fund=false\n").expect("a file");
        assert_eq!(file_without(&file).as_deref(), Some("fund=false\n"));
        std::fs::write(&file, "#".repeat(300 * 1024)).expect("a file");
        assert_eq!(file_without(&file), None);
    }
}
