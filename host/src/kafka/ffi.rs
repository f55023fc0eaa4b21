//! The one module that calls librdkafka's C API directly.
//!
//! The crate `rdkafka` wraps most of what the host needs; what is here it lacks or does too slowly: reading many messages at a
//! time from a queue of one's own (130 to 180 ns a record against 400 to 820), header names that are not UTF-8 (the wrapper
//! panics), producing with null, empty and binary parts at once, and committing without its 100 ms steps. Everything unsafe is
//! behind owned types: a `Message` and a `Queue` keep their consumer alive, so nothing can outlive what librdkafka frees.
#![expect(
    unsafe_code,
    reason = "librdkafka is a C library; each call states what makes it sound"
)]

pub(super) mod describe;

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::raw::c_int;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{Producer as _, ThreadedProducer};
use rdkafka_sys as sys;

use super::consumer::Events;
use super::message::StandsFor;
use super::producer::Deliveries;
pub(crate) use super::producer::{CallError, Produce};

/// Whether a message whose delivery has failed is surely in no topic. False: nobody knows.
pub(super) fn is_surely_unwritten(message: &BorrowedMessage<'_>) -> bool {
    // SAFETY: the message is valid for the call, which only reads it.
    let status = unsafe { sys::rd_kafka_message_status(message.ptr()) };
    status == sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

/// The consumer type of this host: rebalances are recorded, not handled, inside a poll.
pub(crate) type GroupConsumer = BaseConsumer<Events>;

/// A message that a consumer read; freed, and its consumer released, when dropped.
pub(crate) struct Message {
    message: NonNull<sys::rd_kafka_message_t>,
    /// The record that this one carries, where it carries another.
    pub(super) stands_for: Option<Box<StandsFor>>,
    _consumer: Arc<GroupConsumer>,
}

// SAFETY: librdkafka messages are plain memory with atomic reference counts behind them; they may be read and freed on any thread.
unsafe impl Send for Message {}

impl Message {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the pointer came from `rd_kafka_consume_batch_queue` and is destroyed only in `drop`.
        unsafe { self.message.as_ref() }
    }

    /// The error that stands in for a message: the end of a partition, or a partition's error.
    pub(crate) fn error(&self) -> Option<RDKafkaErrorCode> {
        match self.raw().err {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => None,
            code => Some(code.into()),
        }
    }

    /// Identifies topic and partition without comparing names; stable for as long as the consumer has the partition.
    pub(crate) fn source(&self) -> (usize, i32) {
        (self.raw().rkt as usize, self.raw().partition)
    }

    pub(crate) fn topic(&self) -> String {
        if self.raw().rkt.is_null() {
            return String::new();
        }
        // SAFETY: a consumed message holds a reference to its topic, whose name is NUL-terminated.
        unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.raw().rkt)) }
            .to_string_lossy()
            .into_owned()
    }

    pub(crate) fn partition(&self) -> i32 {
        self.raw().partition
    }

    /// The message's offset, or for an end of partition the position behind everything that is there.
    pub(crate) fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        // SAFETY: key and length describe memory of this message, which lives as long as `self`.
        unsafe { bytes(self.raw().key, self.raw().key_len) }
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        // SAFETY: as for the key; where `err` is set the payload is an error text, also owned by the message.
        unsafe { bytes(self.raw().payload, self.raw().len) }
    }

    /// The timestamp that the broker tells; none where the record has none (Kafka writes -1).
    pub(super) fn written_timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid and `kind` is writable.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &mut kind) };
        let known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && timestamp != -1).then_some(timestamp)
    }

    fn raw_headers(&self) -> *mut sys::rd_kafka_headers_t {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid; on success librdkafka keeps ownership of what it points `headers` to.
        let code = unsafe { sys::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        match code {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => headers,
            _ => ptr::null_mut(),
        }
    }

    /// The headers in their order: names as bytes (a NUL inside a name ends it, librdkafka tells no length), values or null.
    pub(crate) fn headers(&self) -> HeaderIter<'_> {
        HeaderIter {
            headers: self.raw_headers(),
            next: 0,
            end: self.own_headers(),
            _message: self,
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: created once from librdkafka and not destroyed before; the consumer is still alive, this struct holds it.
        unsafe { sys::rd_kafka_message_destroy(self.message.as_ptr()) }
    }
}

/// Borrows bytes that librdkafka describes by pointer and length; a null pointer is Kafka's null.
///
/// # Safety
/// A pointer that is not null must be valid for `len` bytes for `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, len: usize) -> Option<&'a [u8]> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    Some(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) })
}

/// Iterates over a message's headers as (name, value).
pub(crate) struct HeaderIter<'a> {
    headers: *mut sys::rd_kafka_headers_t,
    next: usize,
    /// How many are told of at most.
    end: usize,
    _message: &'a Message,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() || self.next >= self.end {
            return None;
        }
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `headers` belongs to the borrowed message; the out pointers are writable.
        let code = unsafe { sys::rd_kafka_header_get_all(self.headers, self.next, &mut name, &mut value, &mut len) };
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        self.next += 1;
        // SAFETY: names are NUL-terminated, values have `len` bytes, both live as long as the message.
        unsafe { Some((CStr::from_ptr(name).to_bytes(), bytes(value, len))) }
    }
}

/// A queue of one's own into which partitions are forwarded, so that many messages are read at a time.
pub(crate) struct Queue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    consumer: Arc<GroupConsumer>,
    buffer: Vec<*mut sys::rd_kafka_message_t>,
}

// SAFETY: librdkafka queues are locked inside; the buffer holds no messages between calls.
unsafe impl Send for Queue {}

impl Queue {
    pub(crate) fn new(consumer: Arc<GroupConsumer>) -> Option<Self> {
        // SAFETY: the client handle is valid for as long as the consumer, which this struct holds.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Some(Self {
            queue: NonNull::new(queue)?,
            consumer,
            buffer: Vec::new(),
        })
    }

    /// Sends what is fetched for a partition here. Called before the partition is assigned, or its first messages go to the main queue.
    pub(crate) fn forward(&self, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else {
            return false;
        };
        // SAFETY: handle and name are valid; the partition's queue is released again, forwarding holds its own references.
        unsafe {
            let source =
                sys::rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if source.is_null() {
                return false;
            }
            sys::rd_kafka_queue_forward(source, self.queue.as_ptr());
            sys::rd_kafka_queue_destroy(source);
        }
        true
    }

    /// Appends up to `max` messages to `into`; waits up to `timeout` for the first one only.
    ///
    /// librdkafka waits until the whole array is full, so the wait is a call of its own that asks for one message.
    pub(crate) fn read(&mut self, into: &mut Vec<Message>, max: usize, timeout: Duration) -> usize {
        let ready = self.read_once(into, max, 0);
        if ready > 0 || timeout.is_zero() {
            return ready;
        }
        let timeout_ms = c_int::try_from(timeout.as_millis().max(1)).unwrap_or(c_int::MAX);
        match self.read_once(into, 1, timeout_ms) {
            0 => 0,
            first => first + self.read_once(into, max.saturating_sub(first), 0),
        }
    }

    fn read_once(&mut self, into: &mut Vec<Message>, max: usize, timeout_ms: c_int) -> usize {
        self.buffer.resize(max, ptr::null_mut());
        // SAFETY: the buffer has room for `max` pointers; this is the only batch call on this consumer, by `&mut self`.
        let read = unsafe {
            sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout_ms, self.buffer.as_mut_ptr(), max)
        };
        let read = usize::try_from(read).unwrap_or(0);
        into.extend(self.buffer[..read].iter().filter_map(|&message| {
            Some(Message {
                message: NonNull::new(message)?,
                stands_for: None,
                _consumer: Arc::clone(&self.consumer),
            })
        }));
        read
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: created by `rd_kafka_queue_new` and destroyed once, while its consumer lives.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

impl CallError {
    fn check(error: *mut sys::rd_kafka_error_t) -> Result<(), CallError> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: an error that is not null is owned by us; its strings are copied before it is destroyed.
        unsafe {
            let found = CallError {
                code: sys::rd_kafka_error_code(error).into(),
                message: CStr::from_ptr(sys::rd_kafka_error_string(error))
                    .to_string_lossy()
                    .into_owned(),
                fatal: sys::rd_kafka_error_is_fatal(error) != 0,
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
                requires_abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            sys::rd_kafka_error_destroy(error);
            Err(found)
        }
    }
}

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// The calls on a producer that go past the wrapper.
pub(crate) struct RawProducer {
    client: ThreadedProducer<Deliveries>,
}

impl RawProducer {
    pub(super) fn new(client: ThreadedProducer<Deliveries>) -> Self {
        Self { client }
    }

    pub(super) fn client(&self) -> &ThreadedProducer<Deliveries> {
        &self.client
    }

    fn handle(&self) -> *mut sys::rd_kafka_t {
        self.client.client().native_ptr()
    }

    pub(super) fn init_transactions(&self, timeout: Duration) -> Result<(), CallError> {
        // SAFETY: the handle is live while `self` holds the client.
        CallError::check(unsafe { sys::rd_kafka_init_transactions(self.handle(), millis(timeout)) })
    }

    pub(super) fn begin_transaction(&self) -> Result<(), CallError> {
        // SAFETY: the handle is live while `self` holds the client.
        CallError::check(unsafe { sys::rd_kafka_begin_transaction(self.handle()) })
    }

    /// Adds offsets to the transaction. The group's metadata is taken here and now: an older snapshot would be fenced, or worse, would not be.
    pub(super) fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        consumer: &GroupConsumer,
        timeout: Duration,
    ) -> Result<(), CallError> {
        // SAFETY: both handles and the list are live; the metadata is destroyed after the call, which does not keep it.
        unsafe {
            let group = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
            if group.is_null() {
                return Err(CallError::not_a_member());
            }
            let member = sys::rd_kafka_consumer_group_metadata_member_id(group);
            // Without a generation and a member the broker takes the offsets for those of an old client and fences nothing.
            if sys::rd_kafka_consumer_group_metadata_generation_id(group) < 0 || CStr::from_ptr(member).is_empty() {
                sys::rd_kafka_consumer_group_metadata_destroy(group);
                return Err(CallError::not_a_member());
            }
            let result = CallError::check(sys::rd_kafka_send_offsets_to_transaction(
                self.handle(),
                offsets.ptr(),
                group,
                millis(timeout),
            ));
            sys::rd_kafka_consumer_group_metadata_destroy(group);
            result
        }
    }

    /// Waits for all deliveries, then commits. Another thread must serve delivery reports meanwhile.
    pub(super) fn commit_transaction(&self, timeout: Duration) -> Result<(), CallError> {
        // SAFETY: the handle is live while `self` holds the client.
        CallError::check(unsafe { sys::rd_kafka_commit_transaction(self.handle(), millis(timeout)) })
    }

    pub(super) fn abort_transaction(&self, timeout: Duration) -> Result<(), CallError> {
        // SAFETY: the handle is live while `self` holds the client.
        CallError::check(unsafe { sys::rd_kafka_abort_transaction(self.handle(), millis(timeout)) })
    }

    /// Waits until every message has its delivery report; false when `timeout` passes first.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        // SAFETY: the handle is live while `self` holds the client.
        let code = unsafe { sys::rd_kafka_flush(self.handle(), millis(timeout)) };
        code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Copies a record into the producer's queue.
    ///
    /// # Errors
    /// `QueueFull` when there is no room now, `MessageSizeTooLarge` beyond `message.max.bytes`, `UnknownPartition`, or the state of the producer.
    pub(super) fn produce(&self, topic: &TopicHandle, record: Produce<'_>) -> Result<(), CallError> {
        use sys::rd_kafka_vtype_t as kind;
        use sys::rd_kafka_vu_s__bindgen_ty_1 as Value;
        let memory = |part: Option<&[u8]>| Value {
            mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                ptr: part.map_or(ptr::null_mut(), |part| part.as_ptr().cast_mut().cast()),
                size: part.map_or(0, <[u8]>::len),
            },
        };
        let argument = |vtype, u| sys::rd_kafka_vu_s { vtype, u };
        let headers = record.headers.map_or(ptr::null_mut(), Headers::into_raw);
        let arguments = [
            argument(
                kind::RD_KAFKA_VTYPE_RKT,
                Value {
                    rkt: topic.topic.as_ptr(),
                },
            ),
            argument(
                kind::RD_KAFKA_VTYPE_PARTITION,
                Value {
                    i32_: record.partition.unwrap_or(-1),
                },
            ),
            argument(
                kind::RD_KAFKA_VTYPE_MSGFLAGS,
                Value {
                    i: sys::RD_KAFKA_MSG_F_COPY as c_int,
                },
            ),
            argument(kind::RD_KAFKA_VTYPE_KEY, memory(record.key)),
            argument(kind::RD_KAFKA_VTYPE_VALUE, memory(record.value)),
            argument(
                kind::RD_KAFKA_VTYPE_TIMESTAMP,
                Value {
                    i64_: record.timestamp_ms.unwrap_or(-1),
                },
            ),
            argument(kind::RD_KAFKA_VTYPE_HEADERS, Value { headers }),
        ];
        let count = arguments.len() - usize::from(headers.is_null());
        // SAFETY: every pointer is valid for the call and copied by it (MSG_F_COPY); the headers are owned by librdkafka on success only.
        let result = CallError::check(unsafe { sys::rd_kafka_produceva(self.handle(), arguments.as_ptr(), count) });
        if result.is_err() && !headers.is_null() {
            // SAFETY: a failed call leaves the headers to us.
            unsafe { sys::rd_kafka_headers_destroy(headers) };
        }
        result
    }
}

/// A topic as a producer knows it; looked up once, not by name for each record.
pub(crate) struct TopicHandle {
    topic: NonNull<sys::rd_kafka_topic_t>,
    _client: ThreadedProducer<Deliveries>,
}

// SAFETY: topic handles are reference-counted and locked inside librdkafka.
unsafe impl Send for TopicHandle {}

impl TopicHandle {
    /// None: the name is not one that librdkafka takes.
    pub(super) fn new(producer: &RawProducer, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is live; a null configuration means the client's defaults.
        let topic = unsafe { sys::rd_kafka_topic_new(producer.handle(), name.as_ptr(), ptr::null_mut()) };
        Some(Self {
            topic: NonNull::new(topic)?,
            _client: producer.client.clone(),
        })
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: owned by this struct, which keeps the client alive.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) }
    }
}

/// Headers under construction.
pub(crate) struct Headers(NonNull<sys::rd_kafka_headers_t>);

impl Headers {
    /// None: librdkafka has no memory left.
    pub(crate) fn with_capacity(count: usize) -> Option<Self> {
        // SAFETY: no preconditions.
        NonNull::new(unsafe { sys::rd_kafka_headers_new(count) }).map(Self)
    }

    /// The headers of a message as they are, names that are not UTF-8 included; none where it has none.
    pub(crate) fn copy_of(message: &Message) -> Option<Self> {
        if message.stands_for.is_some() {
            let mut own = Self::with_capacity(message.headers().count())?;
            message.headers().for_each(|(name, value)| own.add(name, value));
            return Some(own);
        }
        let source = message.raw_headers();
        if source.is_null() {
            return None;
        }
        // SAFETY: the source belongs to the message, which is borrowed for the call.
        NonNull::new(unsafe { sys::rd_kafka_headers_copy(source) }).map(Self)
    }

    pub(crate) fn add(&mut self, name: &[u8], value: Option<&[u8]>) {
        let (pointer, len) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
        // SAFETY: name and value are valid for their lengths and copied; the call fails for read-only headers alone, which these are not.
        unsafe {
            sys::rd_kafka_header_add(
                self.0.as_ptr(),
                name.as_ptr().cast::<c_char>(),
                name.len() as isize,
                pointer.cast(),
                len as isize,
            );
        }
    }

    fn into_raw(self) -> *mut sys::rd_kafka_headers_t {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: owned, and not handed to librdkafka (`into_raw` forgets).
        unsafe { sys::rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}
