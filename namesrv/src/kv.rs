//! The key-value table that RocketMQ's tools keep at a name server (`updateKvConfig`, order configurations).
//!
//! In memory like everything here: it is gone after a restart, and each name server has its own, so tools write it to all of
//! them. Nothing in this name server reads it.

use std::collections::BTreeMap;

use thiserror::Error;

/// Longest namespace or key in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// Longest value in bytes.
pub const VALUE_LEN_MAX: usize = 4_096;

/// Bytes of all namespaces, keys and values together.
pub const BYTES_MAX: usize = 8 << 20;

/// Why nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KvError {
    /// A namespace or key.
    #[error("{what} of {len} bytes: give 1 to {NAME_LEN_MAX}")]
    Name {
        /// Which.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// A value.
    #[error("value of {0} bytes, the limit is {VALUE_LEN_MAX}")]
    Value(usize),
    /// Too much altogether.
    #[error("the table holds {BYTES_MAX} bytes at most: delete what is no longer needed")]
    Full,
}

/// Namespaces with their keys and values.
#[derive(Debug, Default)]
pub struct KvConfig {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    bytes: usize,
}

impl KvConfig {
    /// Sets a key.
    ///
    /// # Errors
    /// [`KvError`]; nothing has changed then.
    pub fn put(&mut self, namespace: String, key: String, value: String) -> Result<(), KvError> {
        for (what, name) in [("namespace", &namespace), ("key", &key)] {
            if name.is_empty() || name.len() > NAME_LEN_MAX {
                return Err(KvError::Name { what, len: name.len() });
            }
        }
        if value.len() > VALUE_LEN_MAX {
            return Err(KvError::Value(value.len()));
        }
        let old = self.get(&namespace, &key).map_or(0, |old| size(&namespace, &key, old));
        let bytes = self.bytes - old + size(&namespace, &key, &value);
        if bytes > BYTES_MAX {
            return Err(KvError::Full);
        }
        self.bytes = bytes;
        self.namespaces.entry(namespace).or_default().insert(key, value);
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.get(key).map(String::as_str)
    }

    /// All keys of a namespace; `None` when it has none.
    pub fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(namespace)
    }

    /// Removes a key; one that is not there is no error.
    pub fn delete(&mut self, namespace: &str, key: &str) {
        let Some(keys) = self.namespaces.get_mut(namespace) else { return };
        if let Some(value) = keys.remove(key) {
            self.bytes -= size(namespace, key, &value);
        }
        if keys.is_empty() {
            self.namespaces.remove(namespace);
        }
    }
}

/// What an entry counts.
fn size(namespace: &str, key: &str, value: &str) -> usize {
    namespace.len() + key.len() + value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &mut KvConfig, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        kv.put(namespace.to_owned(), key.to_owned(), value.to_owned())
    }

    /// What a tool wrote it must read, and what it deleted must be gone.
    #[test]
    fn keys_are_set_and_deleted() {
        let mut kv = KvConfig::default();
        put(&mut kv, "N", "k", "v").unwrap();
        put(&mut kv, "N", "k", "longer").unwrap();
        put(&mut kv, "N", "l", "").unwrap();
        assert_eq!((kv.get("N", "k"), kv.get("N", "l"), kv.get("M", "k")), (Some("longer"), Some(""), None));
        assert_eq!(kv.namespace("N").map(BTreeMap::len), Some(2));
        kv.delete("N", "k");
        kv.delete("N", "k");
        kv.delete("M", "k");
        kv.delete("N", "l");
        assert!(kv.namespace("N").is_none());
        assert_eq!(kv.bytes, 0);
    }

    /// Whoever can reach the port must not be able to fill the memory.
    #[test]
    fn bounded() {
        let mut kv = KvConfig::default();
        assert_eq!(put(&mut kv, "", "k", "v"), Err(KvError::Name { what: "namespace", len: 0 }));
        assert_eq!(put(&mut kv, "N", &"k".repeat(256), "v"), Err(KvError::Name { what: "key", len: 256 }));
        assert_eq!(put(&mut kv, "N", "k", &"v".repeat(4_097)), Err(KvError::Value(4_097)));
        let value = "v".repeat(VALUE_LEN_MAX);
        let taken = (0..10_000).take_while(|n| put(&mut kv, "N", &format!("{n:04}"), &value).is_ok()).count();
        assert_eq!(taken, BYTES_MAX / (VALUE_LEN_MAX + 5));
        assert_eq!(put(&mut kv, "N", "9999", &value), Err(KvError::Full));
        assert_eq!(put(&mut kv, "N", "0000", &value), Ok(()), "in place of what is there");
        assert!(kv.get("N", "9999").is_none() && kv.bytes <= BYTES_MAX);
    }
}
