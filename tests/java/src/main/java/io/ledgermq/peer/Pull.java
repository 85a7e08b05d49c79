package io.ledgermq.peer;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Reads a topic without a listener until the leash is cut. Kinds: pull (DefaultMQPullConsumer, one thread a queue, each pull
 * held by the broker) and lite (DefaultLitePullConsumer). Both go on where the group's committed offsets say, and commit.
 */
public final class Pull {
    private static final int LENGTH = 32;
    private static final long POLL_MS = 200;
    private static final Duration PAUSE_AFTER_FAILURE = Duration.ofMillis(50);

    private final Options options;
    /** Held from a delivery until it is committed. */
    private final ReentrantLock hands = new ReentrantLock();
    private final Leash leash = new Leash();
    private final History history;
    private final String group;
    private final String topic;
    private final String tags;

    private Pull(Options options) {
        this.options = options;
        history = new History(options.text("process"));
        group = options.text("group");
        topic = options.text("topic");
        tags = options.text("tags", "*");
    }

    public static void main(String[] args) throws Exception {
        Pull pull = new Pull(new Options(args));
        switch (pull.options.text("kind")) {
            case "pull" -> pull.pull();
            case "lite" -> pull.lite();
            default -> throw new IllegalArgumentException("no such kind: " + pull.options.text("kind"));
        }
        pull.history.mark("stopped");
        System.exit(0);
    }

    private void lite() throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group);
        options.connect(consumer, options.text("process"), 30_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setAutoCommit(false);
        consumer.subscribe(topic, options.selector());
        consumer.start();
        history.mark("started");
        while (!leash.cut()) {
            List<MessageExt> messages = consumer.poll(POLL_MS);
            messages.forEach(message -> history.deliver(group, message, false));
            consumer.commitSync();
        }
        consumer.shutdown();
    }

    private void pull() throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(group);
        options.connect(consumer, options.text("process"), 30_000);
        consumer.start();
        history.mark("started");
        for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(topic)) {
            Thread thread = new Thread(() -> follow(consumer, queue), "queue-" + queue.getQueueId());
            thread.setDaemon(true);
            thread.start();
        }
        leash.await();
        // Kept until the process ends: what is delivered from now on could not be committed.
        hands.lock();
        consumer.shutdown();
    }

    private void follow(DefaultMQPullConsumer consumer, MessageQueue queue) {
        long next = -1;
        while (!leash.cut()) {
            try {
                if (next < 0) {
                    // None committed is -1.
                    next = Math.max(consumer.fetchConsumeOffset(queue, true), consumer.minOffset(queue));
                }
                PullResult result = consumer.pullBlockIfNotFound(queue, tags, next, LENGTH);
                next = result.getNextBeginOffset();
                if (result.getPullStatus() == PullStatus.FOUND) {
                    take(consumer, queue, result);
                }
            } catch (Exception e) {
                System.err.println(e);
                LockSupport.parkNanos(PAUSE_AFTER_FAILURE.toNanos());
            }
        }
    }

    private void take(DefaultMQPullConsumer consumer, MessageQueue queue, PullResult result) throws Exception {
        hands.lock();
        try {
            result.getMsgFoundList().forEach(message -> history.deliver(group, message, true));
            consumer.getOffsetStore().updateConsumeOffsetToBroker(queue, result.getNextBeginOffset(), false);
        } finally {
            hands.unlock();
        }
    }
}
