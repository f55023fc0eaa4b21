//! The answer to one batch while it is being packed.
//!
//! Everything that is sent is written to the end of the answer's buffer and tables. What a record
//! put there is closed into one reply, or cut off again when the record is rejected, so that a
//! reply's emissions are exactly the last ones.

use crate::Rejection;
use crate::bindings::wasmill::plugin::types::{
    Batch, Emission, Header, HeadersOut, Message, Part, Replies, Reply, Span,
};

/// The lengths of an answer before a record, to which a rejection cuts it back.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    data: usize,
    emissions: usize,
    headers: usize,
}

/// The answer's buffer and tables.
pub(crate) struct Answer {
    pub(crate) replies: Replies,
}

/// How much room the last answer took; the next one begins with as much, so that its buffers need
/// not grow.
#[derive(Clone, Copy, Default)]
pub(crate) struct Room {
    data: usize,
    emissions: usize,
    headers: usize,
}

/// One huge answer must not make every later one reserve as much; batches beyond 256 KiB are slower
/// anyway.
const ROOM_BYTES_MAX: usize = 256 * 1024;

impl Answer {
    pub(crate) fn new(batch: &Batch, room: Room) -> Answer {
        Answer {
            replies: Replies {
                data: Vec::with_capacity(room.data),
                replies: Vec::with_capacity(batch.entries.len()),
                emissions: Vec::with_capacity(room.emissions),
                headers: Vec::with_capacity(room.headers),
            },
        }
    }

    pub(crate) fn room(&self) -> Room {
        Room {
            data: self.replies.data.len().min(ROOM_BYTES_MAX),
            emissions: self.replies.emissions.len().min(ROOM_BYTES_MAX / size_of::<Emission>()),
            headers: self.replies.headers.len().min(ROOM_BYTES_MAX / size_of::<Header>()),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            data: self.replies.data.len(),
            emissions: self.replies.emissions.len(),
            headers: self.replies.headers.len(),
        }
    }

    /// Appends bytes and returns where they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Span {
        let start = self.replies.data.len();
        self.replies.data.extend_from_slice(bytes);
        self.span_from(start)
    }

    /// Where the bytes from `start` to the end of the buffer are.
    pub(crate) fn span_from(&self, start: usize) -> Span {
        span(start, self.replies.data.len())
    }

    /// Closes what a record has put here since `mark` into its one reply.
    pub(crate) fn close(&mut self, mark: Mark, result: Result<(), Rejection>) {
        let reply = match result {
            Ok(()) => self.close_sent(mark),
            Err(rejection) => {
                self.cut(mark);
                let reason = self.write(rejection.reason.as_bytes());
                if rejection.is_retry {
                    Reply::Retry(reason)
                } else {
                    Reply::Reject(reason)
                }
            }
        };
        self.replies.replies.push(reply);
    }

    fn close_sent(&mut self, mark: Mark) -> Reply {
        let sent = &self.replies.emissions[mark.emissions..];
        match sent {
            [] => {
                self.cut(mark);
                Reply::Skip
            }
            [Emission::Message(message)] if is_forward(message) => {
                let port = message.port;
                self.cut(mark);
                Reply::Forward(port)
            }
            // A plugin's memory is addressed by 32 bits, and so is what it can count.
            several => Reply::Emit(several.len() as u32),
        }
    }

    fn cut(&mut self, mark: Mark) {
        self.replies.data.truncate(mark.data);
        self.replies.emissions.truncate(mark.emissions);
        self.replies.headers.truncate(mark.headers);
    }
}

/// A message that changes nothing; alone, it costs less as the reply `forward`.
fn is_forward(message: &Message) -> bool {
    matches!(
        message,
        Message {
            port: _,
            key: Part::Unchanged,
            value: Part::Unchanged,
            headers: HeadersOut::Unchanged,
            timestamp_ms: None,
            partition: None,
        }
    )
}

/// The span from `start` to `end`. A plugin's memory is addressed by 32 bits, so no length in it is
/// cut off here; a native test that packs more than 4 GiB is refused.
pub(crate) fn span(start: usize, end: usize) -> Span {
    debug_assert!(u32::try_from(end).is_ok(), "an answer is smaller than 4 GiB");
    Span {
        start: start as u32,
        len: (end - start) as u32,
    }
}
