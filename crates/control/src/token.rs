//! The operator's token: one secret that opens the API and git.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use selvedge_api::Token;
use subtle::ConstantTimeEq as _;

use crate::data::{DataError, random, read_small, write_private};

/// Random bytes in a token.
const LEN: usize = 32;

/// Reads the token at `path`, or makes one.
pub(crate) fn load_or_create(path: &Path) -> Result<Token, DataError> {
    match read_small(path)? {
        Some(text) => {
            let text = text.trim();
            match URL_SAFE_NO_PAD.decode(text) {
                Ok(bytes) if bytes.len() == LEN => Ok(Token(text.to_owned())),
                _ => Err(DataError::Damaged {
                    path: path.to_owned(),
                    reason: "it holds no token; remove it, and a new one is made".to_owned(),
                }),
            }
        }
        None => {
            let text = URL_SAFE_NO_PAD.encode(random::<LEN>()?);
            write_private(path, format!("{text}\n").as_bytes())?;
            Ok(Token(text))
        }
    }
}

/// Whether an `Authorization` header shows `token`: as a bearer token (RFC 6750), or as the
/// password of any user (RFC 7617), which is how git sends it.
pub(crate) fn is_shown(token: &Token, authorization: Option<&HeaderValue>) -> bool {
    let Some((scheme, rest)) =
        authorization.and_then(|value| value.to_str().ok()).and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    let shown = if scheme.eq_ignore_ascii_case("bearer") {
        rest.trim().as_bytes().to_vec()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(rest.trim()).unwrap_or_default();
        match pair.iter().position(|byte| *byte == b':') {
            Some(colon) => pair.get(colon + 1..).unwrap_or_default().to_vec(),
            None => return false,
        }
    } else {
        return false;
    };
    // Constant in time for a given length; the length is no secret.
    shown.ct_eq(token.0.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn made_once_and_private() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("token");
        let token = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), token);
        assert_eq!(token.0.len(), 43);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(load_or_create(&path).is_err());
    }

    #[test]
    fn bearer_and_basic() {
        let token = Token("s3cret".to_owned());
        let check = |text: &str| is_shown(&token, Some(&HeaderValue::from_str(text).unwrap()));
        let basic = |pair: &str| check(&format!("Basic {}", STANDARD.encode(pair)));
        assert!(check("Bearer s3cret"));
        assert!(check("bearer  s3cret"));
        assert!(basic("git:s3cret"));
        assert!(basic(":s3cret"));
        assert!(!basic("s3cret"));
        assert!(!basic("s3cret:"));
        assert!(!basic("git:s3cret2"));
        for bad in ["", "Bearer", "Bearer ", "Bearer s3cre", "Digest s3cret", "Basic !", "s3cret"] {
            assert!(!check(bad), "{bad}");
        }
        assert!(!is_shown(&token, None));
    }
}
