//! CHECK_CLIENT_CONFIG: a consumer asks at its start whether its subscription can be served.

use ledgermq_protocol::heartbeat::CheckClientRequestBody;
use ledgermq_protocol::remoting::command::RemotingCommand;
use ledgermq_protocol::remoting::response_code::ResponseCode;

use super::body;
use crate::filter::Filter;
use crate::server::outbox::Responder;
use crate::stamp::Refusal;

/// Checks the subscription.
pub fn check_client_config(request: &RemotingCommand, responder: Responder) {
    match check(request) {
        Ok(()) => {
            let answer = responder.command(ResponseCode::SUCCESS);
            responder.send(answer);
        }
        Err(refusal) => responder.refuse(refusal.code, refusal.remark),
    }
}

fn check(request: &RemotingCommand) -> Result<(), Refusal> {
    let asked: CheckClientRequestBody = body(request)?;
    let subscription = asked.subscription_data;
    Filter::parse(&subscription.expression_type, &subscription.sub_string)
        .map_err(|error| Refusal::new(ResponseCode::SUBSCRIPTION_PARSE_FAILED, error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ledgermq_protocol::heartbeat::SubscriptionData;
    use ledgermq_protocol::json::Body;
    use ledgermq_protocol::remoting::request_code::RequestCode;

    use super::*;

    fn code_of(kind: &str, expression: &str) -> i32 {
        let subscription_data = SubscriptionData {
            expression_type: kind.into(),
            sub_string: expression.into(),
            ..SubscriptionData::default()
        };
        let asked = CheckClientRequestBody { subscription_data, ..CheckClientRequestBody::default() };
        let request = RemotingCommand::request(RequestCode::CHECK_CLIENT_CONFIG, 1).with_body(asked.to_json());
        check(&request).err().map_or(0, |refusal| refusal.code)
    }

    /// A consumer must learn at its start, not by silence, that its filter cannot work here.
    #[test]
    fn filters_that_cannot_work_are_refused_at_start() {
        assert_eq!(code_of("TAG", "a || b"), 0);
        assert_eq!(code_of("TAG", " || "), ResponseCode::SUBSCRIPTION_PARSE_FAILED);
        assert_eq!(code_of("SQL92", "a > 1"), 0);
        assert_eq!(code_of("SQL92", "a > "), ResponseCode::SUBSCRIPTION_PARSE_FAILED);
        assert_eq!(code_of("SQL", "a > 1"), ResponseCode::SUBSCRIPTION_PARSE_FAILED);
        let bad = RemotingCommand::request(RequestCode::CHECK_CLIENT_CONFIG, 1).with_body(&b"{"[..]);
        assert_eq!(check(&bad).unwrap_err().code, ResponseCode::SYSTEM_ERROR);
    }
}
