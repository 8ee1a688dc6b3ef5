//! Pins: what a client that has been served an epoch shows to be served nothing older.
//!
//! A pin travels as a cookie or header value, `1.INCARNATION.EPOCH.BUCKET.TAG`, where TAG is
//! HMAC-SHA-256 (RFC 2104) over version, group, environment and the three numbers, each with its
//! length in front, in unpadded base64url. Group and environment are in the tag and not in the
//! text: a pin of another app does not verify.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::documents::{BUCKETS, PinKeys};
use crate::id::{AppName, EnvironmentName};
use crate::version::Epoch;

/// The longest pin accepted, in bytes.
const MAX_LEN: usize = 128;

/// A verified pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The epoch that the client has seen.
    pub epoch: Epoch,
    /// The client's bucket, 0 to [`BUCKETS`] - 1.
    pub bucket: u16,
}

/// Signs and verifies pins.
#[derive(Clone)]
pub struct PinAuthority {
    keys: Vec<Hmac<Sha256>>,
}

impl std::fmt::Debug for PinAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinAuthority({} keys)", self.keys.len())
    }
}

/// A pin key that is not 32 bytes in hexadecimal, or no key at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pin keys must be one or more of 64 hexadecimal digits")]
pub struct BadPinKeys;

impl PinAuthority {
    /// Takes the keys into use.
    pub fn new(keys: &PinKeys) -> Result<Self, BadPinKeys> {
        let keys = keys
            .keys
            .iter()
            .map(|text| {
                let bytes =
                    hex::decode(text).ok().filter(|bytes| bytes.len() == 32).ok_or(BadPinKeys)?;
                Hmac::new_from_slice(&bytes).map_err(|_| BadPinKeys)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(BadPinKeys) } else { Ok(Self { keys }) }
    }

    /// The pin's text, signed with the first key.
    pub fn sign(&self, group: &AppName, environment: &EnvironmentName, pin: Pin) -> String {
        let tag = match self.keys.first() {
            Some(key) => URL_SAFE_NO_PAD
                .encode(input(key.clone(), group, environment, pin).finalize().into_bytes()),
            None => String::new(),
        };
        format!("1.{}.{}.{}.{tag}", pin.epoch.incarnation, pin.epoch.number, pin.bucket)
    }

    /// The pin that `text` carries, if one of the keys signed it for this group and environment.
    /// Compares in constant time. Anything else is `None`: forged pins are ignored, not refused.
    pub fn verify(
        &self,
        group: &AppName,
        environment: &EnvironmentName,
        text: &str,
    ) -> Option<Pin> {
        if text.len() > MAX_LEN {
            return None;
        }
        let mut parts = text.splitn(5, '.');
        if parts.next()? != "1" {
            return None;
        }
        let epoch = Epoch::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let bucket = parts.next()?.parse().ok().filter(|bucket| *bucket < BUCKETS)?;
        let tag = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        let pin = Pin { epoch, bucket };
        self.keys
            .iter()
            .any(|key| input(key.clone(), group, environment, pin).verify_slice(&tag).is_ok())
            .then_some(pin)
    }
}

fn input(
    mut mac: Hmac<Sha256>,
    group: &AppName,
    environment: &EnvironmentName,
    pin: Pin,
) -> Hmac<Sha256> {
    let numbers = [
        pin.epoch.incarnation.to_be_bytes(),
        pin.epoch.number.to_be_bytes(),
        u64::from(pin.bucket).to_be_bytes(),
    ];
    for part in
        [b"selvedge-pin/1".as_slice(), group.as_str().as_bytes(), environment.as_str().as_bytes()]
            .into_iter()
            .chain(numbers.iter().map(<[u8; 8]>::as_slice))
    {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(byte: u8) -> PinAuthority {
        PinAuthority::new(&PinKeys { keys: vec![hex::encode([byte; 32])] }).unwrap()
    }

    #[test]
    fn only_what_was_signed_verifies() {
        let (shop, other) = (AppName::new("shop").unwrap(), AppName::new("other").unwrap());
        let production = EnvironmentName::production();
        let pin = Pin { epoch: Epoch::new(3, 14), bucket: 1592 };
        let text = authority(1).sign(&shop, &production, pin);
        assert_eq!(authority(1).verify(&shop, &production, &text), Some(pin));
        assert_eq!(authority(1).verify(&other, &production, &text), None);
        assert_eq!(authority(2).verify(&shop, &production, &text), None);
        assert_eq!(authority(1).verify(&shop, &production, &text.replacen("14", "15", 1)), None);
        for junk in ["", "1", "1.2.3.4", "1.2.3.4.", "2.3.14.1592.x", &"1.".repeat(200)] {
            assert_eq!(authority(1).verify(&shop, &production, junk), None, "{junk}");
        }
    }

    #[test]
    fn rotated_keys_still_verify() {
        let shop = AppName::new("shop").unwrap();
        let production = EnvironmentName::production();
        let pin = Pin { epoch: Epoch::new(1, 1), bucket: 0 };
        let text = authority(1).sign(&shop, &production, pin);
        let rotated = PinKeys { keys: vec![hex::encode([2; 32]), hex::encode([1; 32])] };
        assert_eq!(
            PinAuthority::new(&rotated).unwrap().verify(&shop, &production, &text),
            Some(pin)
        );
        assert!(PinAuthority::new(&PinKeys { keys: vec![] }).is_err());
    }
}
