"""What happens to packets between two nodes: bandwidth, delay, jitter and loss.

All of it happens in the middle of a link, in a hidden network namespace (middle.py), never on a node: a queue on a
sending host would be no bottleneck to TCP, which sees it fill and stops (TCP Small Queues), and a delay there would
starve it.

    node 1                      the middle                      node 2
    s1-eth0 ---- veth ---- 7a             7b ---- veth ---- sw1-eth1

Three things can be in the middle; the names are those that results record:

    tbf           only a bandwidth: the kernel passes packets on; a token bucket on each port is the bottleneck

                      7a  --copy------>  TBF 7b         and the same from 7b to 7a

    netem         where the kernel has it: the bottleneck, then delay, jitter and loss

                      7a  --copy------>  TBF 7c - veth - 7d  --copy------>  netem 7b

    delay-line    elsewhere: one process for all links of a network reads packets from one port, keeps them for as long
                  as the delay is, loses some, and writes the others to the other port; TBF there is the bottleneck

                      7a  --AF_PACKET--> delay line --AF_PACKET-->  TBF 7b

Where the delay line differs from netem: packets are lost before the bottleneck, not after it; jitter is a wave, not
noise (schedule.py); VLAN tags are not carried. Where netem differs: its jitter is drawn for each packet, and as order
is kept, packets that follow each other closely are on average later than the delay says; its losses cannot be repeated.
"""
