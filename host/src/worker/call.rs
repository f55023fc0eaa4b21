//! How a worker makes an instance of the plugin, and calls it.

use std::sync::Arc;
use std::time::Instant;

use super::{INSTANCE_TRIES_MAX, PAUSE, Worker};
use crate::fault::Fault;
use crate::kafka::consumer::TopicPartition;
use crate::kafka::ffi::Message;
use crate::plugin::instance::Instance;
use crate::reply::Checked;
use crate::sink::Failure;

impl Worker {
    /// Makes and configures an instance. That it cannot be done is no record's fault: `configure` has passed when the stage started.
    pub(super) fn fresh_instance(&mut self) -> Result<Instance, Failure> {
        let mut tries = 0;
        loop {
            self.metrics.instances.inc();
            let version = &self.publication.version;
            let made = Instance::new(
                Arc::clone(&version.plugin),
                Arc::clone(&self.executor),
                Arc::clone(&version.metrics),
            );
            match made {
                Ok(instance) => return Ok(instance),
                Err(fault) if tries == INSTANCE_TRIES_MAX && self.publication.is_on_trial() => {
                    self.roll_back(&fault)?;
                    return Err(Failure::Stop(fault.message));
                }
                Err(fault) if tries == INSTANCE_TRIES_MAX => {
                    let text = format!(
                        "no instance of the plugin can be made any more ({}): {fault}",
                        fault.kind
                    );
                    return Err(Failure::Stop(text));
                }
                Err(fault) => {
                    tracing::warn!(stage = self.task.stage, %fault, "making an instance failed, trying again")
                }
            }
            tries += 1;
            std::thread::sleep(PAUSE);
        }
    }

    /// Calls the plugin with records of one partition. After a fault the instance is gone.
    pub(super) fn call(
        &mut self,
        mut instance: Instance,
        partition: &TopicPartition,
        part: &[Message],
    ) -> Result<Checked, Fault> {
        let began = Instant::now();
        let batch = self.packer.pack(&partition.topic, partition.partition, part);
        self.metrics.batches.inc();
        self.metrics.records_in.inc_by(batch.entries.len() as u64);
        self.metrics.bytes_in.inc_by(batch.data.len() as u64);
        let answered = instance.process(batch);
        self.metrics.call_seconds.observe(began.elapsed().as_secs_f64());
        let version = &self.publication.version;
        let limits = &version.plugin.limits.answer;
        let checked = Checked::new(answered?, part.len(), &self.ports, limits)
            .inspect_err(|fault| version.metrics.hit(fault.limit))?;
        self.metrics
            .memory
            .set(i64::try_from(instance.memory_bytes()).unwrap_or(i64::MAX));
        self.instance = Some(instance);
        Ok(checked)
    }
}
