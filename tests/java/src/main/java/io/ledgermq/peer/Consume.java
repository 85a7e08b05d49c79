package io.ledgermq.peer;

import java.util.Locale;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;

/**
 * Consumes with DefaultMQPushConsumer until the leash is cut, and writes every delivery. Models: clustering and
 * broadcasting; with order, one listener at a time per queue.
 */
public final class Consume {
    private Consume() {}

    public static void main(String[] args) throws Exception {
        Options options = new Options(args);
        String process = options.text("process");
        String group = options.text("group");
        History history = new History(process);
        Leash leash = new Leash();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        options.connect(consumer, process, 30_000);
        consumer.setPersistConsumerOffsetInterval(options.number("persist-ms", 5_000));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // The class has another name in 4.x and 5.x, so it is not named here.
        String model = options.text("model", "clustering").toUpperCase(Locale.ROOT);
        consumer.setMessageModel(Enum.valueOf(consumer.getMessageModel().getDeclaringClass(), model));
        consumer.subscribe(options.text("topic"), options.selector());
        if (options.number("order", 0) != 0) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.forEach(message -> history.deliver(group, message, true));
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(message -> history.deliver(group, message, false));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        try {
            consumer.start();
        } catch (MQClientException e) {
            // The client's threads would keep the process alive.
            System.err.println(e);
            System.exit(1);
        }
        history.mark("started");
        leash.await();
        consumer.shutdown();
        history.mark("stopped");
        System.exit(0);
    }
}
