//! Which queues of a topic a member gets. Every member computes it for itself from the same lists, and stock clients are members
//! too: the rule is RocketMQ's averaging, to the last queue.

/// The share of member number `me` out of `members`: a run of neighbours. The first members get one more where it does not come
/// out even. Both lists are sorted, queues by broker name and id, members by client id.
pub(super) fn share<Q>(queues: &[Q], members: usize, me: usize) -> &[Q] {
    assert!(me < members, "a member has a place among the members");
    let (each, over) = (queues.len() / members, queues.len() % members);
    let from = me * each + me.min(over);
    let len = each + usize::from(me < over);
    &queues[from..from + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RocketMQ's own arithmetic (AllocateMessageQueueAveragely of its client), kept as it is there for the comparison.
    fn as_rocketmq(queues: usize, members: usize, me: usize) -> Vec<usize> {
        let rest = queues % members;
        let average = if queues <= members {
            1
        } else if rest > 0 && me < rest {
            queues / members + 1
        } else {
            queues / members
        };
        let start = if rest > 0 && me < rest { me * average } else { me * average + rest };
        let range = average.min(queues.saturating_sub(start));
        (0..range).map(|n| (start + n) % queues).collect()
    }

    /// A member that computes other shares than the stock members of its group leaves queues without a reader, or reads them
    /// twice for ever.
    #[test]
    fn shares_are_those_of_rocketmq() {
        for queues in 1..=40 {
            let list: Vec<usize> = (0..queues).collect();
            for members in 1..=50 {
                let mut all = Vec::new();
                for me in 0..members {
                    assert_eq!(share(&list, members, me), as_rocketmq(queues, members, me), "{queues} {members} {me}");
                    all.extend_from_slice(share(&list, members, me));
                }
                assert_eq!(all, list, "each queue has one member");
            }
        }
    }

    /// Golden shares, as stock consumers took them.
    #[test]
    fn golden_shares() {
        let queues: Vec<u32> = (0..8).collect();
        assert_eq!([0, 1, 2].map(|me| share(&queues, 3, me)), [&[0, 1, 2][..], &[3, 4, 5], &[6, 7]]);
        assert_eq!([0, 1, 2].map(|me| share(&queues[..4], 3, me)), [&[0, 1][..], &[2], &[3]]);
        assert_eq!([0, 1, 2].map(|me| share(&queues[..2], 3, me)), [&[0][..], &[1], &[]]);
        assert_eq!(share(&queues, 1, 0), &queues);
        assert_eq!(share(&queues[..0], 2, 1), &[] as &[u32]);
    }
}
