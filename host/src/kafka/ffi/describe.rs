//! Asks the brokers what this client's user may do with topics and with a group (KIP-430); they tell it to everybody who may see the resource.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use sys::rd_kafka_admin_op_t as api;

use super::{CallError, millis};

/// What a broker tells of one topic or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// The operations that are allowed, by Kafka's own numbers; none: the broker is too old to tell.
    Operations(Option<Vec<u32>>),
    Refused(RDKafkaErrorCode),
}

/// What the user may do with these topics, each named once. No topic is created by it.
///
/// # Errors
/// When no broker answers in time.
pub(crate) fn topics<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<(String, Told)>, CallError> {
    let names: Vec<CString> = names.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let question = Question::new(client, api::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
    // SAFETY: the names live until after the calls, which copy them; the collection is destroyed once.
    unsafe {
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(question.client, collection, question.options, question.queue.as_ptr());
        sys::rd_kafka_TopicCollection_destroy(collection);
    }
    let answer = question.answer(timeout)?;
    let mut told = Vec::new();
    // SAFETY: the result and all that it points to live as long as the event, and are copied here.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.0.as_ptr());
        if result.is_null() {
            return Err(not_answered("the answer is not about topics"));
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for &topic in list(described.cast_const(), count) {
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let mut count = 0;
            let operations = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
            told.push((name.to_string_lossy().into_owned(), said(error, operations, count)));
        }
    }
    Ok(told)
}

/// What the user may do with this consumer group, whether it has members or not.
///
/// # Errors
/// When no broker answers in time.
pub(crate) fn group<C: ClientContext>(client: &Client<C>, name: &str, timeout: Duration) -> Result<Told, CallError> {
    let name = CString::new(name).map_err(|_| not_answered("the group's name holds a NUL"))?;
    let mut names = [name.as_ptr()];
    let question = Question::new(client, api::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, timeout)?;
    // SAFETY: the name lives until after the call, which copies it.
    unsafe {
        sys::rd_kafka_DescribeConsumerGroups(
            question.client,
            names.as_mut_ptr(),
            names.len(),
            question.options,
            question.queue.as_ptr(),
        );
    }
    let answer = question.answer(timeout)?;
    // SAFETY: the result and all that it points to live as long as the event, and are copied here.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(answer.0.as_ptr());
        if result.is_null() {
            return Err(not_answered("the answer is not about groups"));
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        let Some(&group) = list(described.cast_const(), count).first() else {
            return Err(not_answered("the answer is about no group"));
        };
        let error = sys::rd_kafka_ConsumerGroupDescription_error(group);
        let mut count = 0;
        let operations = sys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &mut count);
        Ok(said(error, operations, count))
    }
}

/// Reads what stands in one description.
///
/// # Safety
/// Both pointers must be null or valid, `operations` for `count` elements.
unsafe fn said(
    error: *const sys::rd_kafka_error_t,
    operations: *const sys::rd_kafka_AclOperation_t,
    count: usize,
) -> Told {
    // SAFETY: by the caller's promise. The numbers are read as such, because a broker may know more of them than this library.
    unsafe {
        let code = sys::rd_kafka_error_code(error);
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Told::Refused(code.into());
        }
        Told::Operations((!operations.is_null()).then(|| list(operations.cast::<u32>(), count).to_vec()))
    }
}

/// Borrows a list that librdkafka describes by pointer and length; a null pointer is an empty one.
///
/// # Safety
/// A pointer that is not null must be valid for `count` elements for `'a`.
unsafe fn list<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: by the caller's promise.
    unsafe { slice::from_raw_parts(pointer, count) }
}

fn not_answered(text: &str) -> CallError {
    CallError {
        code: RDKafkaErrorCode::BadMessage,
        message: text.to_owned(),
        fatal: false,
        retriable: false,
        requires_abort: false,
    }
}

/// What a question of the admin interface needs; it lives no longer than its client.
struct Question {
    client: *mut sys::rd_kafka_t,
    options: *mut sys::rd_kafka_AdminOptions_t,
    queue: NonNull<sys::rd_kafka_queue_t>,
}

impl Question {
    fn new<C: ClientContext>(client: &Client<C>, about: api, timeout: Duration) -> Result<Self, CallError> {
        let client = client.native_ptr();
        // SAFETY: the client is borrowed by the callers until the question is dropped; both objects are destroyed in `drop`.
        unsafe {
            let Some(queue) = NonNull::new(sys::rd_kafka_queue_new(client)) else {
                return Err(not_answered("there is no memory for a queue"));
            };
            let question = Self {
                client,
                options: sys::rd_kafka_AdminOptions_new(client, about),
                queue,
            };
            let (text, len) = (ptr::null_mut(), 0);
            sys::rd_kafka_AdminOptions_set_request_timeout(question.options, millis(timeout), text, len);
            CallError::check(sys::rd_kafka_AdminOptions_set_include_authorized_operations(
                question.options,
                1,
            ))?;
            Ok(question)
        }
    }

    fn answer(&self, timeout: Duration) -> Result<Answer, CallError> {
        // SAFETY: the queue lives as long as `self`; an event that is not null is owned by us.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), millis(timeout)) };
        let Some(answer) = NonNull::new(event).map(Answer) else {
            return Err(CallError {
                code: RDKafkaErrorCode::OperationTimedOut,
                ..not_answered("no broker has answered")
            });
        };
        // SAFETY: the event is valid; its text is copied.
        unsafe {
            let code = sys::rd_kafka_event_error(event);
            if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Ok(answer);
            }
            let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event));
            Err(CallError {
                code: code.into(),
                ..not_answered(&text.to_string_lossy())
            })
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // SAFETY: both were made by `new` and are destroyed once, while the client lives; an answer that comes later is dropped by librdkafka.
        unsafe {
            sys::rd_kafka_AdminOptions_destroy(self.options);
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

struct Answer(NonNull<sys::rd_kafka_event_t>);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: owned by this struct.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}
