//! Subscription groups: UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, DELETE_SUBSCRIPTIONGROUP, GET_SUBSCRIPTIONGROUP_CONFIG and
//! GET_ALL_SUBSCRIPTIONGROUP_CONFIG.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledgermq_protocol::json::Body;
use ledgermq_protocol::names;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::headers::topic::{self as headers, SubscriptionGroup};
use ledgermq_protocol::remoting::response_code::ResponseCode;
use ledgermq_protocol::subscription_group::{GroupRetryPolicy, SubscriptionGroupConfig, SubscriptionGroupWrapper};

use super::{body, carry_out, header, refused, topic};
use crate::command::{Command, DeleteSubscriptionGroup, GroupSettings, PutSubscriptionGroup};
use crate::replica::Replica;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Creates a subscription group or changes its settings; answers once the change is in the log and visible here.
pub async fn create(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    carry_out(&replica, prepare(&request).map(Command::PutSubscriptionGroup), responder).await;
}

fn prepare(request: &RemotingCommand) -> Result<PutSubscriptionGroup, Refusal> {
    let config: SubscriptionGroupConfig = body(request)?;
    let illegal = |remark: String| Refusal::new(ResponseCode::INVALID_PARAMETER, remark);
    names::check_group(&config.group_name).map_err(|error| illegal(error.to_string()))?;
    let settings = settings_of(&config);
    settings.check().map_err(|error| illegal(error.to_string()))?;
    Ok(PutSubscriptionGroup { group: config.group_name, settings, replace: true })
}

/// Deletes a subscription group, with its offsets when that is asked for; answers once that is in the log and visible here. One
/// that does not exist is no error. A member that still runs makes it anew with its next heartbeat.
pub async fn delete(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    carry_out(&replica, prepare_delete(&request).map(Command::DeleteSubscriptionGroup), responder).await;
}

fn prepare_delete(request: &RemotingCommand) -> Result<DeleteSubscriptionGroup, Refusal> {
    let headers::DeleteSubscriptionGroup { group, clean_offset } = header(request)?;
    let illegal = |remark: String| Refusal::new(ResponseCode::INVALID_PARAMETER, remark);
    names::check_group(&group).map_err(|error| illegal(error.to_string()))?;
    if names::is_system_group(&group) {
        return Err(illegal(format!("subscription group {group} belongs to the system")));
    }
    Ok(DeleteSubscriptionGroup { group, clean_offsets: clean_offset.unwrap_or(false) })
}

/// Answers with the settings of one group.
pub async fn config(replica: Arc<Replica>, request: RemotingCommand, responder: Responder) {
    replica.catch_up().await;
    let found = header(&request).and_then(|asked: SubscriptionGroup| {
        let not_there = || {
            let remark = format!("subscription group {} does not exist", asked.group);
            Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
        };
        let settings = replica.tables().group(&asked.group).ok_or_else(not_there)?;
        Ok(config_of(&asked.group, &settings))
    });
    let answer = responder.command(ResponseCode::SUCCESS);
    let answer = match found {
        Ok(config) => answer.with_body(config.to_json()),
        Err(refusal) => refused(answer, refusal),
    };
    responder.send(answer);
}

/// Answers with all groups. Without a total a 5.4 client asks no second time.
pub fn all_groups(replica: &Replica, responder: Responder) {
    let tables = replica.tables();
    let data_version = topic::data_version(tables.groups_version(), replica.role().term);
    let groups = tables.groups().into_iter().map(|(name, settings)| (name.to_string(), config_of(&name, &settings)));
    let wrapper = SubscriptionGroupWrapper {
        data_version,
        forbidden_table: BTreeMap::new(),
        subscription_group_table: groups.collect(),
    };
    let answer = responder.command(ResponseCode::SUCCESS).with_body(wrapper.to_json());
    responder.send(answer);
}

fn settings_of(config: &SubscriptionGroupConfig) -> GroupSettings {
    let policy = &config.group_retry_policy;
    let retry_policy = if *policy == GroupRetryPolicy::default() {
        String::new()
    } else {
        serde_json::to_string(policy).expect("a policy is numbers and texts")
    };
    GroupSettings {
        consume_enable: config.consume_enable,
        consume_from_min_enable: config.consume_from_min_enable,
        consume_broadcast_enable: config.consume_broadcast_enable,
        consume_message_orderly: config.consume_message_orderly,
        retry_queues: config.retry_queue_nums,
        retry_max_times: config.retry_max_times,
        retry_policy,
        broker_id: config.broker_id,
        which_broker_when_consume_slowly: config.which_broker_when_consume_slowly,
        notify_consumer_ids_changed: config.notify_consumer_ids_changed_enable,
        sys_flag: config.group_sys_flag,
        consume_timeout_minutes: config.consume_timeout_minute,
        attributes: config.attributes.clone(),
    }
}

fn config_of(group: &str, settings: &GroupSettings) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig {
        attributes: settings.attributes.clone(),
        broker_id: settings.broker_id,
        consume_broadcast_enable: settings.consume_broadcast_enable,
        consume_enable: settings.consume_enable,
        consume_from_min_enable: settings.consume_from_min_enable,
        consume_message_orderly: settings.consume_message_orderly,
        consume_timeout_minute: settings.consume_timeout_minutes,
        group_name: group.to_owned(),
        // What is in the log was written by `settings_of`.
        group_retry_policy: serde_json::from_str(&settings.retry_policy).unwrap_or_default(),
        group_sys_flag: settings.sys_flag,
        notify_consumer_ids_changed_enable: settings.notify_consumer_ids_changed,
        retry_max_times: settings.retry_max_times,
        retry_queue_nums: settings.retry_queues,
        subscription_data_set: Vec::new(),
        which_broker_when_consume_slowly: settings.which_broker_when_consume_slowly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an operator sets must come back as it was set.
    #[test]
    fn settings_survive_the_log() {
        let config = SubscriptionGroupConfig {
            consume_enable: false,
            retry_max_times: 3,
            retry_queue_nums: 2,
            consume_message_orderly: true,
            group_retry_policy: GroupRetryPolicy { kind: "EXPONENTIAL".into(), ..GroupRetryPolicy::default() },
            attributes: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..SubscriptionGroupConfig::new("g")
        };
        assert_eq!(config_of("g", &settings_of(&config)), config);
        let plain = SubscriptionGroupConfig::new("g");
        assert_eq!(settings_of(&plain), GroupSettings::standard());
        assert_eq!(config_of("g", &GroupSettings::standard()), plain);
    }
}
