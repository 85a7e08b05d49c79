//! A topic's route as producers and consumers see it: its queues.

use ledgermq_protocol::json::object_map::MessageQueue;
use ledgermq_protocol::route::{PERM_READ, PERM_WRITE, QueueData, TopicRouteData};

/// Most queues per broker name that a route may bring: a list is made of them.
const QUEUES_MAX: i32 = 65_536;

/// The route of a topic. Does not change; ask again for a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRoute {
    topic: String,
    data: TopicRouteData,
    write_queues: Vec<MessageQueue>,
    read_queues: Vec<MessageQueue>,
}

impl TopicRoute {
    pub(crate) fn new(topic: &str, data: TopicRouteData) -> Self {
        let write_queues = queues(topic, &data, PERM_WRITE, |queues| queues.write_queue_nums);
        let read_queues = queues(topic, &data, PERM_READ, |queues| queues.read_queue_nums);
        Self { topic: topic.to_owned(), data, write_queues, read_queues }
    }

    /// The route that `topic` will have once a broker has created it after this one (TBW102): at most `queue_nums` queues on each
    /// broker name.
    pub(crate) fn as_template_for(&self, topic: &str, queue_nums: i32) -> Self {
        let mut data = self.data.clone();
        for queues in &mut data.queue_datas {
            queues.write_queue_nums = queues.write_queue_nums.min(queue_nums);
            queues.read_queue_nums = queues.read_queue_nums.min(queue_nums);
        }
        Self::new(topic, data)
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The queues to send to, sorted by broker name and id. The same for every client, whoever leads at the moment.
    pub fn write_queues(&self) -> &[MessageQueue] {
        &self.write_queues
    }

    /// The queues to pull from, sorted by broker name and id.
    pub fn read_queues(&self) -> &[MessageQueue] {
        &self.read_queues
    }

    /// What the name server answered.
    pub fn data(&self) -> &TopicRouteData {
        &self.data
    }
}

fn queues(topic: &str, data: &TopicRouteData, perm: i32, number: impl Fn(&QueueData) -> i32) -> Vec<MessageQueue> {
    let mut list: Vec<MessageQueue> = data
        .queue_datas
        .iter()
        .filter(|queues| queues.perm & perm != 0)
        .flat_map(|queues| {
            let ids = 0..number(queues).clamp(0, QUEUES_MAX);
            ids.map(|queue_id| MessageQueue {
                broker_name: queues.broker_name.clone(),
                queue_id,
                topic: topic.to_owned(),
            })
        })
        .collect();
    list.sort();
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(perm: i32) -> TopicRouteData {
        let queues = |name: &str, write, read| QueueData {
            broker_name: name.to_owned(),
            perm,
            read_queue_nums: read,
            topic_sys_flag: 0,
            write_queue_nums: write,
        };
        TopicRouteData { queue_datas: vec![queues("broker-b", 1, 2), queues("broker-a", 2, 1)], ..Default::default() }
    }

    /// Keys are mapped to queues by position: every client must see one order, and permissions must count.
    #[test]
    fn queues_are_sorted_and_permitted() {
        let route = TopicRoute::new("T", data(6));
        let names: Vec<String> =
            route.write_queues().iter().map(|queue| format!("{}:{}", queue.broker_name, queue.queue_id)).collect();
        assert_eq!(names, ["broker-a:0", "broker-a:1", "broker-b:0"]);
        assert_eq!(route.read_queues().len(), 3);
        let read_only = TopicRoute::new("T", data(4));
        assert!(read_only.write_queues().is_empty());
        assert_eq!(read_only.read_queues().len(), 3);
        assert_eq!(route.as_template_for("New", 1).write_queues().len(), 2);
        assert_eq!(route.as_template_for("New", 1).write_queues()[0].topic, "New");
    }
}
