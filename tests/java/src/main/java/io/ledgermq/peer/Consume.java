package io.ledgermq.peer;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Consumes with DefaultMQPushConsumer until the leash is cut, and writes every delivery. */
public final class Consume {
    private Consume() {}

    public static void main(String[] args) throws Exception {
        Options options = new Options(args);
        String process = options.text("process");
        String group = options.text("group");
        History history = new History(process);
        Leash leash = new Leash();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(options.text("namesrv"));
        consumer.setInstanceName(process);
        consumer.setPollNameServerInterval(options.number("poll-ms", 30_000));
        consumer.setPersistConsumerOffsetInterval(options.number("persist-ms", 5_000));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(options.text("topic"), options.text("tags", "*"));
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                history.deliver(
                    group,
                    message.getTopic(),
                    message.getQueueId(),
                    message.getQueueOffset(),
                    Payload.read(message.getBody()),
                    message.getTags(),
                    message.getKeys());
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        history.mark("started");
        leash.await();
        consumer.shutdown();
        history.mark("stopped");
        System.exit(0);
    }
}
