//! Encryption with a shared key: AES-GCM, one key to write, several to read.
//!
//! ```text
//! version u8 │ nonce 12 │ ciphertext │ tag 16        version 0 pads the plaintext to 16 bytes
//! ```

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, KeyInit, Nonce, aes::Aes192};
use bytes::Bytes;
use thiserror::Error;

use super::WireError;
use crate::chance::Chance;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;
/// The version that we write. Wire value: append only.
const VERSION_UNPADDED: u8 = 1;
const VERSION_PADDED: u8 = 0;

/// How many bytes an encrypted message is longer than a plain one.
pub const ENCRYPTION_OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Keys in a ring: each may have to be tried on each datagram. Rotation needs two.
pub const KEYS_MAX: usize = 64;

/// Why a keyring was not changed. The sentences are Serf's own, which its tools compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// AES knows three lengths.
    #[error("key size must be 16, 24 or 32 bytes")]
    KeySize,
    /// The key is not there to be used.
    #[error("Requested key is not in the keyring")]
    NotThere,
    /// Without the primary key nothing can be written.
    #[error("Removing the primary key is not allowed")]
    RemovesPrimary,
    /// As many keys as a ring holds.
    #[error("the keyring has {KEYS_MAX} keys already: remove one first")]
    Full,
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

struct Key {
    bytes: Vec<u8>,
    cipher: Cipher,
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Key, KeyringError> {
        let size = |_| KeyringError::KeySize;
        let cipher = match bytes.len() {
            16 => Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(bytes).map_err(size)?)),
            24 => Cipher::Aes192(Box::new(AesGcm::new_from_slice(bytes).map_err(size)?)),
            32 => Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(bytes).map_err(size)?)),
            _ => return Err(KeyringError::KeySize),
        };
        Ok(Key {
            bytes: bytes.to_vec(),
            cipher,
        })
    }

    fn seal(&self, nonce: &[u8; NONCE_BYTES], msg: &[u8], aad: &[u8]) -> Vec<u8> {
        let (nonce, payload) = (&Nonce::from(*nonce), Payload { msg, aad });
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt(nonce, payload),
            Cipher::Aes192(cipher) => cipher.encrypt(nonce, payload),
            Cipher::Aes256(cipher) => cipher.encrypt(nonce, payload),
        }
        .expect("a message is shorter than the 64 GiB that AES-GCM takes")
    }

    fn open(&self, nonce: &[u8; NONCE_BYTES], msg: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let (nonce, payload) = (&Nonce::from(*nonce), Payload { msg, aad });
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt(nonce, payload),
            Cipher::Aes192(cipher) => cipher.decrypt(nonce, payload),
            Cipher::Aes256(cipher) => cipher.decrypt(nonce, payload),
        }
        .ok()
    }
}

/// The keys of a pool, the primary one first.
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// A ring of these keys; the first encrypts, each decrypts.
    ///
    /// # Errors
    ///
    /// No key, too many, or one that is not 16, 24 or 32 bytes.
    pub fn new<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Result<Keyring, KeyringError> {
        let mut ring = Keyring { keys: Vec::new() };
        for key in keys {
            ring.install(key.as_ref())?;
        }
        if ring.keys.is_empty() {
            return Err(KeyringError::KeySize);
        }
        Ok(ring)
    }

    /// Adds a key that decrypts. One that is there stays where it is.
    ///
    /// # Errors
    ///
    /// It has the wrong length, or the ring is full.
    pub fn install(&mut self, key: &[u8]) -> Result<(), KeyringError> {
        let key = Key::new(key)?;
        if self.position(&key.bytes).is_some() {
            return Ok(());
        }
        if self.keys.len() == KEYS_MAX {
            return Err(KeyringError::Full);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Makes a key of the ring the one that encrypts.
    ///
    /// # Errors
    ///
    /// It is not in the ring.
    pub fn use_key(&mut self, key: &[u8]) -> Result<(), KeyringError> {
        let at = self.position(key).ok_or(KeyringError::NotThere)?;
        self.keys[..=at].rotate_right(1);
        Ok(())
    }

    /// Takes a key out. One that is not there is out already.
    ///
    /// # Errors
    ///
    /// It is the primary key.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), KeyringError> {
        match self.position(key) {
            Some(0) => Err(KeyringError::RemovesPrimary),
            Some(at) => {
                self.keys.remove(at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The keys, the primary one first.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &key.bytes[..])
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.keys.iter().position(|known| known.bytes == key)
    }

    /// Encrypts with the primary key; `aad` is protected, too, but not sent along.
    pub fn seal(&self, plain: &[u8], aad: &[u8], chance: &mut Chance) -> Bytes {
        let nonce = chance.bytes();
        let sealed = self.keys[0].seal(&nonce, plain, aad);
        Bytes::from([&[VERSION_UNPADDED], &nonce[..], &sealed].concat())
    }

    /// Decrypts with whichever key opens it.
    ///
    /// # Errors
    ///
    /// It is too short, of a version that is not known, or no key opens it.
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<Bytes, WireError> {
        let version = *sealed.first().ok_or(WireError::Empty)?;
        if version > VERSION_UNPADDED {
            return Err(WireError::EncryptionVersion(version));
        }
        let missing = ENCRYPTION_OVERHEAD_BYTES.saturating_sub(sealed.len());
        let Some((nonce, text)) = sealed[1..].split_first_chunk() else {
            return Err(WireError::Truncated { missing });
        };
        if text.len() < TAG_BYTES {
            return Err(WireError::Truncated { missing });
        }
        let plain = self.keys.iter().find_map(|key| key.open(nonce, text, aad));
        let mut plain = plain.ok_or(WireError::NoKeyOpens)?;
        if version == VERSION_PADDED {
            // The last byte says how many to take off; it comes from somebody who has the key, and
            // is still not believed.
            let pad = plain.last().map_or(0, |last| usize::from(*last));
            if pad == 0 || pad > BLOCK_BYTES || pad > plain.len() {
                return Err(WireError::OutOfRange { field: "padding" });
            }
            plain.truncate(plain.len() - pad);
        }
        Ok(Bytes::from(plain))
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(key: &[u8], plain: &[u8], aad: &[u8]) -> Vec<u8> {
        let key = Key::new(key).unwrap();
        [
            &[VERSION_PADDED],
            &[7; NONCE_BYTES][..],
            &key.seal(&[7; NONCE_BYTES], plain, aad),
        ]
        .concat()
    }

    #[test]
    fn each_size_of_key_seals_and_opens() {
        let mut chance = Chance::from_number(1);
        for size in [16, 24, 32] {
            let ring = Keyring::new([vec![9; size]]).unwrap();
            let sealed = ring.seal(b"hello", b"head", &mut chance);
            assert_eq!(sealed.len(), 5 + ENCRYPTION_OVERHEAD_BYTES);
            assert_eq!(ring.open(&sealed, b"head").unwrap(), b"hello"[..]);
            assert_eq!(ring.open(&sealed, b"other"), Err(WireError::NoKeyOpens));
            assert_ne!(
                sealed,
                ring.seal(b"hello", b"head", &mut chance),
                "nonces differ"
            );
        }
        assert_eq!(Keyring::new([[1; 15]]).unwrap_err(), KeyringError::KeySize);
        assert!(Keyring::new([[1; 16]; 0]).is_err());
    }

    #[test]
    fn g9_padding_is_taken_off_and_not_believed() {
        let ring = Keyring::new([[3; 16]]).unwrap();
        let good = padded(
            &[3; 16],
            b"hello\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b",
            b"",
        );
        assert_eq!(ring.open(&good, b"").unwrap(), b"hello"[..]);
        for wrong in [
            &b""[..],
            b"\x00",
            b"\xff",
            b"ab\x04",
            b"0123456789abcdefgh\x11",
        ] {
            assert!(
                ring.open(&padded(&[3; 16], wrong, b""), b"").is_err(),
                "{wrong:?}"
            );
        }
        for length in 0..ENCRYPTION_OVERHEAD_BYTES {
            assert!(ring.open(&good[..length], b"").is_err());
        }
        assert_eq!(
            ring.open(b"\x08\x03", b""),
            Err(WireError::EncryptionVersion(8))
        );
    }

    #[test]
    fn keys_rotate() {
        let mut chance = Chance::from_number(1);
        let (old, new) = (vec![1; 16], vec![2; 32]);
        let mut ring = Keyring::new([&old]).unwrap();
        let by_old = ring.seal(b"x", b"", &mut chance);
        assert_eq!(ring.use_key(&new), Err(KeyringError::NotThere));
        ring.install(&new).unwrap();
        ring.install(&new).unwrap();
        ring.use_key(&new).unwrap();
        assert_eq!(ring.keys().collect::<Vec<_>>(), [&new[..], &old]);
        assert_eq!(ring.remove(&new), Err(KeyringError::RemovesPrimary));
        assert!(ring.open(&by_old, b"").is_ok());
        ring.remove(&old).unwrap();
        ring.remove(&old).unwrap();
        assert_eq!(ring.open(&by_old, b""), Err(WireError::NoKeyOpens));
        for more in 0..KEYS_MAX as u8 - 1 {
            ring.install(&[100 + more; 24]).unwrap();
        }
        assert_eq!(ring.install(&[99; 24]), Err(KeyringError::Full));
    }
}
