//! Maps whose keys are message queues, in the form that all clients read: the key is the object itself.
//!
//! `{{"brokerName":"b","queueId":0,"topic":"t"}:5}` is not JSON, but it is what fastjson writes and what both its generations
//! read, while the newer one rejects the standard form (an escaped object in a string). The Go client reads it as text and needs
//! it without whitespace. Both forms are parsed.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// Most entries that are parsed: a topic's queues, times the topics of a group.
pub const MAX_ENTRIES: usize = 1_000_000;

/// One queue of a topic on one broker name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    /// Broker name.
    pub broker_name: String,
    /// Queue.
    pub queue_id: i32,
    /// Topic.
    pub topic: String,
}

/// A map keyed by message queues.
pub type QueueMap<V> = BTreeMap<MessageQueue, V>;

/// Appends `map` to a JSON text in the object-literal form.
pub fn write<V: Serialize>(map: &QueueMap<V>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (n, (queue, value)) in map.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_json(queue, out);
        out.push(b':');
        write_json(value, out);
    }
    out.push(b'}');
}

/// Appends a value that holds no such map as plain JSON.
pub fn write_json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("writing plain values to memory cannot fail");
}

/// Reads a map whose keys arrive as strings that hold an object: what the rewriter makes of the object-literal form, or the
/// standard form itself. For serde's `deserialize_with`.
pub fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(deserializer: D) -> Result<QueueMap<V>, D::Error> {
    struct Entries<V>(std::marker::PhantomData<V>);

    impl<'de, V: Deserialize<'de>> serde::de::Visitor<'de> for Entries<V> {
        type Value = QueueMap<V>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map keyed by message queues")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            use serde::de::Error;
            let mut map = QueueMap::new();
            while let Some(key) = entries.next_key::<String>()? {
                if map.len() == MAX_ENTRIES {
                    return Err(A::Error::custom(format_args!("more than {MAX_ENTRIES} queues")));
                }
                let queue = serde_json::from_str(&key).map_err(A::Error::custom)?;
                map.insert(queue, entries.next_value()?);
            }
            Ok(map)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(QueueMap::new())
        }
    }

    deserializer.deserialize_any(Entries(std::marker::PhantomData))
}
