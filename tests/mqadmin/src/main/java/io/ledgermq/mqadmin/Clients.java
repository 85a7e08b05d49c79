package io.ledgermq.mqadmin;

import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;

/**
 * A producer and a push consumer that stay while commands run. Each prints its client id. And a producer that is traced: it
 * sends one message and prints its id.
 */
final class Clients {
    private DefaultMQProducer producer;
    private DefaultMQPushConsumer consumer;

    void run(String[] words) throws Exception {
        switch (words[0]) {
            case "@produce" -> produce(words[1], words[2], words[3], Integer.parseInt(words[4]));
            case "@consume" -> consume(words[1], words[2], words[3]);
            case "@stop" -> consumer.shutdown();
            case "@trace" -> trace(words[1], words[2], words[3]);
            default -> throw new IllegalArgumentException("no such command: " + words[0]);
        }
    }

    private void produce(String namesrv, String group, String topic, int count) throws Exception {
        producer = new DefaultMQProducer(group);
        producer.setNamesrvAddr(namesrv);
        producer.start();
        for (int n = 0; n < count; n++) {
            producer.send(new Message(topic, ("message " + n).getBytes(StandardCharsets.UTF_8)));
        }
        System.out.println(producer.buildMQClientId());
    }

    private static void trace(String namesrv, String group, String topic) throws Exception {
        DefaultMQProducer traced = new DefaultMQProducer(group, true, null);
        traced.setNamesrvAddr(namesrv);
        traced.setInstanceName("traced");
        traced.start();
        SendResult sent = traced.send(new Message(topic, "traced".getBytes(StandardCharsets.UTF_8)));
        traced.shutdown();
        System.out.println(sent.getMsgId());
    }

    private void consume(String namesrv, String group, String topic) throws Exception {
        consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName("consumer");
        consumer.setPersistConsumerOffsetInterval(200);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(
            (MessageListenerConcurrently) (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        consumer.start();
        System.out.println(consumer.buildMQClientId());
    }
}
