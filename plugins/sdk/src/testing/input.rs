//! A record as a test writes it.

/// A record for a plugin: the value, and what a test adds to it. Unless set, the key is null, there
/// are no headers and no timestamp, and the position is that in the batch, in partition 0 of topic
/// `input`.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) position: Option<(String, u32, u64)>,
}

impl Input {
    /// A record with this value.
    pub fn value(value: impl AsRef<[u8]>) -> Input {
        Input {
            value: Some(value.as_ref().to_vec()),
            ..Input::default()
        }
    }

    /// A record whose value is null.
    pub fn tombstone() -> Input {
        Input::default()
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Input {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// With this header after those before. The name need not be UTF-8.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Input {
        self.headers
            .push((name.as_ref().to_vec(), Some(value.as_ref().to_vec())));
        self
    }

    /// With this header, whose value is null, after those before.
    #[must_use]
    pub fn null_header(mut self, name: impl AsRef<[u8]>) -> Input {
        self.headers.push((name.as_ref().to_vec(), None));
        self
    }

    /// With this timestamp, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Input {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// At this topic, partition and offset.
    #[must_use]
    pub fn position(mut self, topic: &str, partition: u32, offset: u64) -> Input {
        self.position = Some((topic.to_owned(), partition, offset));
        self
    }
}
