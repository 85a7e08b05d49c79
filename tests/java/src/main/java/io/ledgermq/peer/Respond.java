package io.ledgermq.peer;

import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Answers every request of a topic until the leash is cut, and writes every delivery. A reply that the broker refused is a
 * note that begins with "refused".
 */
public final class Respond {
    private Respond() {}

    static String answer(String id) {
        return "re: " + id;
    }

    public static void main(String[] args) throws Exception {
        Options options = new Options(args);
        String process = options.text("process");
        String group = options.text("group");
        History history = new History(process);
        Leash leash = new Leash();
        DefaultMQProducer producer = new DefaultMQProducer(group + "-answers");
        options.connect(producer, process, 30_000);
        producer.start();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        options.connect(consumer, process, 30_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(options.text("topic"), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                history.deliver(group, message, false);
                if (MessageUtil.getReplyToClient(message) == null) {
                    continue;
                }
                try {
                    byte[] words = answer(Payload.read(message.getBody()).id()).getBytes(StandardCharsets.UTF_8);
                    producer.send(MessageUtil.createReplyMessage(message, words));
                } catch (Exception e) {
                    history.mark("refused: " + e);
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        history.mark("started");
        leash.await();
        consumer.shutdown();
        producer.shutdown();
        history.mark("stopped");
        System.exit(0);
    }
}
