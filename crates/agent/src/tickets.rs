//! Keys of TLS session tickets for the proxy, from the document that carries them.

use selvedge_model::documents::TicketKeys;
use selvedge_proxy::{TicketKey, TicketKeyError};

/// More keys than any plan has: each is tried for its name at every handshake.
const MAX_KEYS: usize = 8;

/// Why keys can't be used. It never says what they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTicketKeys {
    #[error("ticket keys must be 1 to {MAX_KEYS} of 64 hexadecimal digits")]
    Form,
    #[error(transparent)]
    Key(#[from] TicketKeyError),
}

/// The first encrypts, all decrypt.
pub(crate) fn keys(document: &TicketKeys) -> Result<Vec<TicketKey>, BadTicketKeys> {
    if !(1..=MAX_KEYS).contains(&document.keys.len()) {
        return Err(BadTicketKeys::Form);
    }
    let key = |text: &String| {
        let mut secret = [0; 32];
        hex::decode_to_slice(text, &mut secret).map_err(|_| BadTicketKeys::Form)?;
        Ok(TicketKey::new(&secret)?)
    };
    document.keys.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_pass_and_none_is_told() {
        let read = |keys: &[String]| super::keys(&TicketKeys { keys: keys.to_vec(), since_ms: 0 });
        let good = "ab".repeat(32);
        assert_eq!(read(&[good.clone(), "cd".repeat(32)]).unwrap().len(), 2);
        for bad in [vec![], vec![good.clone(); 9], vec![good.clone(), "ab".repeat(31)]] {
            let error = read(&bad).unwrap_err().to_string();
            assert!(!error.contains("abab"), "{error}");
        }
    }
}
