"""A small AMQP 1.0 broker for tests, a process of its own: python amqp_broker.py PORT.

Each address is a queue in memory.  A message leaves it when a receiver accepts or rejects it, and goes back to its head
when the receiver goes away without.  A line on standard output tells of each: `accepted ADDRESS`, `rejected ADDRESS`.
"""

import collections
import sys
import uuid

from proton import Delivery, Endpoint
from proton.handlers import MessagingHandler
from proton.reactor import Container


class Broker(MessagingHandler):

    def __init__(self, url):
        super().__init__(prefetch=1000, auto_settle=False)
        self._url = url
        self._queues = collections.defaultdict(collections.deque)
        self._senders = []
        #: Messages on their way, in their order: (link, tag) -> (address, message).
        self._sent = {}

    def on_start(self, event):
        self._acceptor = event.container.listen(self._url)
        print("READY", flush=True)

    def on_link_opening(self, event):
        link = event.link
        link.source.address = link.remote_source.address or (uuid.uuid4().hex if link.remote_source.dynamic else None)
        link.target.address = link.remote_target.address
        if link.is_sender:
            self._senders.append(link)
        self._pump()

    def on_message(self, event):
        # Senders without a target, such as collectd, name the address in each message.
        self._queues[event.link.target.address or event.message.address].append(event.message)
        self._pump()

    def on_sendable(self, event):
        self._pump()

    def _pump(self):
        """Give each receiver with credit, in turn, what is for it."""
        sent = True
        while sent:
            sent = False
            for link in list(self._senders):
                queue = self._queues[link.source.address]
                if queue and link.credit and link.state & Endpoint.LOCAL_ACTIVE:
                    message = queue.popleft()
                    delivery = link.send(message)
                    self._sent[link, delivery.tag] = link.source.address, message
                    sent = True

    def on_delivery(self, event):
        delivery = event.delivery
        if delivery.link.is_sender and delivery.updated and delivery.settled:
            address, message = self._sent.pop((delivery.link, delivery.tag))
            if delivery.remote_state in (Delivery.ACCEPTED, Delivery.REJECTED):
                print("accepted" if delivery.remote_state == Delivery.ACCEPTED else "rejected", address, flush=True)
            else:
                self._queues[address].appendleft(message)
            delivery.settle()
            self._pump()

    def on_link_closing(self, event):
        self._forget([event.link])

    def on_disconnected(self, event):
        self._forget([link for link in self._senders if link.connection == event.connection])

    def on_connection_closing(self, event):
        self.on_disconnected(event)

    def _forget(self, links):
        self._senders = [link for link in self._senders if link not in links]
        for key in reversed([key for key in self._sent if key[0] in links]):
            address, message = self._sent.pop(key)
            self._queues[address].appendleft(message)
        self._pump()


if __name__ == "__main__":
    Container(Broker(f"127.0.0.1:{sys.argv[1]}")).run()
