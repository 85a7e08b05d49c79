//! By which filter a pull goes: the one in its header, or the one that heartbeats of its group brought.
//!
//! An expression is compiled when a heartbeat brings it for the first time and stays with the group's subscription. A pull that brings
//! its own is mostly one of a consumer that has subscribed with the same: only one that nobody subscribed with is compiled for each pull.

use std::sync::Arc;

use ledgermq_protocol::heartbeat::{TYPE_SQL92, TYPE_TAG};
use ledgermq_protocol::remoting::headers::pull::{FLAG_SUBSCRIPTION, PullMessage};
use ledgermq_protocol::remoting::response_code::ResponseCode;

use crate::consumer::group::{Lookup, Subscription};
use crate::filter::Filter;
use crate::replica::Replica;
use crate::stamp::Refusal;

/// The filter of a pull.
///
/// # Errors
/// A refusal, when there is no subscription here, an older one, or one with an expression that cannot be used.
pub(super) fn of(replica: &Replica, pull: &PullMessage, broadcast_allowed: bool) -> Result<Arc<Filter>, Refusal> {
    let group = &pull.consumer_group;
    if pull.sys_flag & FLAG_SUBSCRIPTION != 0 {
        return of_header(replica, pull);
    }
    let lookup = replica.consumers.subscription(group, &pull.topic);
    if lookup != Lookup::NoGroup
        && !broadcast_allowed
        && replica.consumers.consumption(group).is_some_and(|consumption| consumption.broadcasting)
    {
        let remark = format!("subscription group {group} may not consume by broadcast");
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, remark));
    }
    match lookup {
        Lookup::Found(found) if pull.sub_version > found.version && !passes_all(&found, pull) => Err(Refusal::new(
            ResponseCode::SUBSCRIPTION_NOT_LATEST,
            format!("the subscription of group {group} to {} known here is older", pull.topic),
        )),
        Lookup::Found(found) => found.filter.map_err(|error| {
            let remark = format!("the subscription of group {group} to {}: {error}", pull.topic);
            Refusal::new(ResponseCode::FILTER_DATA_NOT_EXIST, remark)
        }),
        Lookup::NotSubscribed => Err(Refusal::new(
            ResponseCode::SUBSCRIPTION_NOT_EXIST,
            format!("group {group} does not subscribe to {}", pull.topic),
        )),
        Lookup::NoGroup => Err(Refusal::new(
            ResponseCode::SUBSCRIPTION_NOT_EXIST,
            format!("no heartbeat of group {group} has come to this broker yet"),
        )),
    }
}

/// The filter that a pull brings with it.
fn of_header(replica: &Replica, pull: &PullMessage) -> Result<Arc<Filter>, Refusal> {
    let (group, topic) = (&pull.consumer_group, &pull.topic);
    let (kind, expression) = (expression_type(pull), pull.subscription.as_deref().unwrap_or_default());
    let compiled = |kind| replica.consumers.compiled(group, topic, kind, expression);
    let filter = match compiled(kind) {
        Some(known) => known,
        // The Go client's polls (2.1.2) say TAG whatever it subscribed with. No message has such a tag: all would be passed over.
        None if kind == TYPE_TAG && compiled(TYPE_SQL92).is_some() => {
            let remark =
                format!("the pull says {TYPE_TAG}, but group {group} subscribes to {topic} with this as {TYPE_SQL92}");
            return Err(Refusal::new(ResponseCode::SUBSCRIPTION_PARSE_FAILED, remark));
        }
        None => Filter::parse(kind, expression).map(Arc::new),
    };
    filter.map_err(|error| Refusal::new(ResponseCode::SUBSCRIPTION_PARSE_FAILED, error.to_string()))
}

fn expression_type(pull: &PullMessage) -> &str {
    pull.expression_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(TYPE_TAG)
}

/// Whether what is known here, though older, passes all that the client can want: clients drop by their own tags what comes too
/// much. The Java client counts its version up with each rebalance and tells by a heartbeat that it leaves out while another one
/// is under way; a new consumer would wait up to 30 s for the next.
fn passes_all(known: &Subscription, pull: &PullMessage) -> bool {
    known.filter.as_deref().is_ok_and(Filter::passes_all) && expression_type(pull) == TYPE_TAG
}
