/* Two guests, A and B, in one process and on one CPU: DPDK's virtio_user front ends, the driver that DPDK's own
 * applications have in a guest. They send to each other through whatever listens on their sockets.
 *
 *   one-way    A sends as fast as the ring takes it, or at --rate; counted at B
 *   both-ways  B sends to A as well
 *   ping-pong  one frame is under way, to B and back; the time of a round trip
 *   idle       they connect and sleep
 *
 * testpmd cannot do this: it has one way to forward in a process, and two processes that poll share no CPU.
 *
 * The first 62 bytes of a frame are written on sending and read on receiving: Ethernet, IPv4, UDP, and then a mark of
 * the sender at 42, the time at 46, a number at 54. Sizes are bytes in the virtqueue, without checksum and virtio-net header.
 *
 * Prints a line of JSON for each window, {"event":"start"} before it, and {"event":"pause"} before each pause between
 * windows, in which others may look at the machine.
 *
 *   front_ends EAL_OPTIONS --vdev=net_virtio_user0,... --vdev=net_virtio_user1,... -- [OPTIONS]
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>

enum {
	BURST = 32,
	SEGMENT = 2048,		/* bytes of a frame in one descriptor, as in a guest */
	MAX_SEGMENTS = 8,
	MAX_FLOWS = 4096,
	RING = 1024,
	/* Buffers kept beside a pool. With fewer, bursts of frames in five parts may overflow it each time, or not, by chance;
	 * if they do, every buffer of the pool takes its turn, 57 MB that no cache holds. */
	CACHE = RTE_MEMPOOL_CACHE_MAX_SIZE,
	/* A histogram of TSC ticks: 32 steps for each power of two. */
	STEP_BITS = 5,
	STEPS = (64 - STEP_BITS) << STEP_BITS,
};

static const uint32_t MARK = 0x65766230;	/* of A, and one more of B */
static const double PAUSE = 0.06, WARM_UP = 0.1;	/* seconds */

struct guest {
	uint16_t port;
	uint32_t mark;
	uint8_t headers[MAX_FLOWS][64];
	unsigned flow;
	uint64_t number;
	/* Made, and not yet taken by the ring. */
	struct rte_mbuf *made[BURST];
	unsigned made_count;
	/* Since the start of the window. */
	uint64_t sent, received, bytes, bursts, full;
};

static struct guest a, b;
static struct rte_mempool *sent_pool, *received_pool;
static volatile sig_atomic_t ended;
static unsigned size = 64, flows = 1, windows = 1, segments;
static double seconds = 1, rate;
static int timed;
static struct { uint64_t count, max, bins[STEPS]; } latency;

static void end(int signal_number) { (void)signal_number; ended = 1; }

static void fail(const char *what)
{
	fprintf(stderr, "front_ends: %s\n", what);
	exit(1);
}

static void event(const char *name)
{
	printf("{\"event\":\"%s\"}\n", name);
	fflush(stdout);
}

static unsigned bin_of(uint64_t ticks)
{
	if (ticks < 1u << STEP_BITS)
		return ticks;
	unsigned power = 63 - __builtin_clzll(ticks);
	return ((power - STEP_BITS + 1) << STEP_BITS) + (ticks >> (power - STEP_BITS) & ((1u << STEP_BITS) - 1));
}

static uint64_t ticks_of(unsigned bin)
{
	unsigned power = bin >> STEP_BITS, step = bin & ((1u << STEP_BITS) - 1);
	return power == 0 ? step : (uint64_t)(step | 1u << STEP_BITS) << (power - 1);
}

static void count_latency(uint64_t ticks)
{
	latency.bins[bin_of(ticks)]++;
	latency.count++;
	if (ticks > latency.max)
		latency.max = ticks;
}

/* The latency that a part of the frames did not exceed, in microseconds. */
static double percentile(double part)
{
	uint64_t wanted = latency.count * part, seen = 0, ticks = latency.max;
	for (unsigned bin = 0; bin < STEPS; bin++)
		if ((seen += latency.bins[bin]) > wanted) {
			ticks = ticks_of(bin);
			break;
		}
	return ticks * 1e6 / rte_get_tsc_hz();
}

/* The first bytes of the frames of each flow. */
static void write_headers(struct guest *from, uint8_t me, uint8_t peer)
{
	for (unsigned flow = 0; flow < flows; flow++) {
		uint8_t *bytes = from->headers[flow];
		struct rte_ether_hdr *ethernet = (void *)bytes;
		struct rte_ipv4_hdr *ip = (void *)(ethernet + 1);
		struct rte_udp_hdr *udp = (void *)(ip + 1);
		ethernet->dst_addr = (struct rte_ether_addr){{2, 0, 0, peer, flow >> 8, flow}};
		ethernet->src_addr = (struct rte_ether_addr){{2, 0, 0, me, flow >> 8, flow}};
		ethernet->ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
		ip->version_ihl = 0x45;
		ip->time_to_live = 64;
		ip->next_proto_id = IPPROTO_UDP;
		ip->total_length = rte_cpu_to_be_16(size - 14);
		ip->src_addr = rte_cpu_to_be_32(10u << 24 | me << 16 | flow);
		ip->dst_addr = rte_cpu_to_be_32(10u << 24 | peer << 16 | flow);
		ip->hdr_checksum = rte_ipv4_cksum(ip);
		udp->src_port = rte_cpu_to_be_16(1024 + flow);
		udp->dst_port = rte_cpu_to_be_16(9);
		udp->dgram_len = rte_cpu_to_be_16(size - 34);
		memcpy(bytes + 42, &from->mark, 4);
	}
}

/* Makes frames until there are `count`. */
static inline void make(struct guest *from, unsigned count)
{
	struct rte_mbuf *parts[BURST * MAX_SEGMENTS];
	if (from->made_count >= count)
		return;
	unsigned wanted = (count - from->made_count) * segments;
	if (rte_pktmbuf_alloc_bulk(sent_pool, parts, wanted))
		return;
	for (unsigned i = 0; i < wanted; i += segments) {
		struct rte_mbuf *frame = parts[i];
		unsigned left = size;
		for (unsigned j = i; j < i + segments; j++) {
			parts[j]->data_len = left < SEGMENT ? left : SEGMENT;
			left -= parts[j]->data_len;
			parts[j]->next = j + 1 < i + segments ? parts[j + 1] : NULL;
		}
		frame->nb_segs = segments;
		frame->pkt_len = size;
		uint8_t *bytes = rte_pktmbuf_mtod(frame, uint8_t *);
		memcpy(bytes, from->headers[from->flow], 46);
		if (++from->flow >= flows)
			from->flow = 0;
		memcpy(bytes + 54, &from->number, 8);
		from->number++;
		from->made[from->made_count++] = frame;
	}
}

static inline unsigned send_burst(struct guest *from, unsigned count)
{
	make(from, count);
	if (count > from->made_count)
		count = from->made_count;
	if (count == 0)
		return 0;
	if (timed) {
		uint64_t now = rte_rdtsc();
		for (unsigned i = 0; i < count; i++)
			memcpy(rte_pktmbuf_mtod_offset(from->made[i], void *, 46), &now, 8);
	}
	unsigned taken = rte_eth_tx_burst(from->port, 0, from->made, count);
	from->bursts++;
	from->full += taken < count;
	from->sent += taken;
	from->made_count -= taken;
	memmove(from->made, from->made + taken, from->made_count * sizeof *from->made);
	return taken;
}

static inline unsigned receive_burst(struct guest *to, uint32_t from)
{
	struct rte_mbuf *frames[BURST];
	unsigned count = rte_eth_rx_burst(to->port, 0, frames, BURST), ours = 0;
	uint64_t now = timed && count ? rte_rdtsc() : 0;
	for (unsigned i = 0; i < count; i++) {
		uint8_t *bytes = rte_pktmbuf_mtod(frames[i], uint8_t *);
		uint32_t mark;
		uint64_t then, number;
		memcpy(&mark, bytes + 42, 4);
		memcpy(&then, bytes + 46, 8);
		memcpy(&number, bytes + 54, 8);
		__asm__ volatile("" : : "r"(number));
		if (mark != from)
			continue;
		if (frames[i]->pkt_len != size)
			fail("a frame has another length than it was sent with");
		ours++;
		to->bytes += size;
		if (timed)
			count_latency(now - then);
	}
	if (count)
		rte_pktmbuf_free_bulk(frames, count);
	to->received += ours;
	return ours;
}

static void start_port(uint16_t port)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info info;
	rte_eth_dev_info_get(port, &info);
	if (size > 1514) {
		conf.rxmode.mtu = size - 14;
		conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
		conf.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	}
	struct rte_eth_rxconf rx = info.default_rxconf;
	struct rte_eth_txconf tx = info.default_txconf;
	rx.offloads = conf.rxmode.offloads;
	tx.offloads = conf.txmode.offloads;
	if (rte_eth_dev_configure(port, 1, 1, &conf) ||
	    rte_eth_rx_queue_setup(port, 0, RING, 0, &rx, received_pool) ||
	    rte_eth_tx_queue_setup(port, 0, RING, 0, &tx) || rte_eth_dev_start(port))
		fail("a port cannot be started");
	rte_eth_promiscuous_enable(port);
}

static void receive_both(void)
{
	receive_burst(&a, b.mark);
	receive_burst(&b, a.mark);
}

/* Shows every address to a switch that learns, and lets what is under way arrive. */
static void learn(void)
{
	for (int round = 0; round < 3; round++)
		for (unsigned i = 0; i < flows && !ended; i += 8) {
			send_burst(round & 1 ? &a : &b, flows - i < 8 ? flows - i : 8);
			for (int j = 0; j < 8; j++) {
				receive_both();
				rte_delay_us_block(5);
			}
		}
	for (int i = 0; i < 1000; i++) {
		receive_both();
		rte_delay_us_block(50);
	}
}

/* Sends and receives for so long; returns the ticks in which there was nothing to do. */
static uint64_t load(int both_ways, double for_seconds)
{
	uint64_t hz = rte_get_tsc_hz(), start = rte_rdtsc(), until = start + for_seconds * hz, now = start;
	uint64_t idle = 0, sent = 0;
	while (now < until && !ended) {
		unsigned count = BURST, done;
		if (rate > 0) {
			uint64_t due = (now - start) * (rate / hz);
			/* What was missed is not made up for beyond one ring. */
			if (due > sent + RING)
				sent = due - RING;
			count = due > sent ? RTE_MIN(due - sent, (uint64_t)BURST) : 0;
		}
		done = count ? send_burst(&a, count) : 0;
		sent += done;
		if (both_ways)
			done += send_burst(&b, BURST);
		done += receive_burst(&b, a.mark);
		done += receive_burst(&a, b.mark);
		uint64_t then = now;
		now = rte_rdtsc();
		if (!done)
			idle += now - then;
	}
	return idle;
}

/* One frame to the other guest; false if it is lost, which means that it is not there within 20 ms. */
static int send_one(struct guest *from, struct guest *to)
{
	uint64_t until = rte_rdtsc() + rte_get_tsc_hz() / 50;
	while (!send_burst(from, 1))
		if (ended || rte_rdtsc() > until)
			return 0;
	while (!receive_burst(to, from->mark))
		if (rte_rdtsc() > until)
			return 0;
	return 1;
}

/* Round trips for so long; returns how many frames were lost. */
static uint64_t ping_pong(double for_seconds)
{
	uint64_t until = rte_rdtsc() + for_seconds * rte_get_tsc_hz(), start, lost = 0;
	while ((start = rte_rdtsc()) < until && !ended)
		if (send_one(&a, &b) && send_one(&b, &a))
			count_latency(rte_rdtsc() - start);
		else
			lost++;
	return lost;
}

static void clear(struct guest *guest)
{
	guest->sent = guest->received = guest->bytes = guest->bursts = guest->full = 0;
}

static void window(int pings, int both_ways)
{
	event("start");
	clear(&a);
	clear(&b);
	memset(&latency, 0, sizeof latency);
	uint64_t start = rte_rdtsc(), idle = 0, lost = 0;
	if (pings)
		lost = ping_pong(seconds);
	else
		idle = load(both_ways, seconds);
	double ticks = rte_rdtsc() - start, taken = ticks / rte_get_tsc_hz();
	uint64_t received = a.received + b.received, sent = a.sent + b.sent, bursts = a.bursts + b.bursts;
	printf("{\"seconds\":%.4f,\"sent\":%" PRIu64 ",\"received\":%" PRIu64 ",\"mpps\":%.4f,\"gbps\":%.3f,"
	       "\"full\":%.4f,\"idle\":%.4f,\"lost\":%" PRIu64,
	       taken, sent, received, received / taken / 1e6, (a.bytes + b.bytes) * 8 / taken / 1e9,
	       bursts ? (double)(a.full + b.full) / bursts : 0, idle / ticks, lost);
	if (latency.count)
		printf(",\"p50\":%.3f,\"p99\":%.3f", percentile(0.5), percentile(0.99));
	printf("}\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mode", 1, 0, 'm'}, {"size", 1, 0, 's'}, {"flows", 1, 0, 'f'},
		{"seconds", 1, 0, 't'}, {"windows", 1, 0, 'w'}, {"rate", 1, 0, 'r'}, {0}};
	const char *mode = "one-way";
	int used = rte_eal_init(argc, argv), option;
	if (used < 0)
		fail("DPDK does not start");
	argc -= used;
	argv += used;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (option) {
		case 'm': mode = optarg; break;
		case 's': size = atoi(optarg); break;
		case 'f': flows = atoi(optarg); break;
		case 't': seconds = atof(optarg); break;
		case 'w': windows = atoi(optarg); break;
		case 'r': rate = atof(optarg); break;
		default: return 2;
		}
	segments = (size + SEGMENT - 1) / SEGMENT;
	if (size < 64 || segments > MAX_SEGMENTS || flows < 1 || flows > MAX_FLOWS)
		fail("no such size, or number of flows");
	if (rte_eth_dev_count_avail() < 2)
		fail("two ports are needed");
	signal(SIGINT, end);
	signal(SIGTERM, end);
	sent_pool = rte_pktmbuf_pool_create("sent", 8191 + 4096 * (segments - 1), CACHE, 0,
					    RTE_PKTMBUF_HEADROOM + SEGMENT, SOCKET_ID_ANY);
	received_pool = rte_pktmbuf_pool_create("received", 8191, CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (!sent_pool || !received_pool)
		fail("no memory for frames");
	a.port = 0;
	a.mark = MARK;
	b.port = 1;
	b.mark = MARK + 1;
	write_headers(&a, 10, 11);
	write_headers(&b, 11, 10);
	start_port(0);
	start_port(1);
	usleep(100000);		/* until the other side has seen the rings */
	learn();

	int pings = !strcmp(mode, "ping-pong"), both_ways = !strcmp(mode, "both-ways");
	if (!strcmp(mode, "idle")) {
		event("start");
		for (double slept = 0; slept < seconds && !ended; slept += 0.05)
			usleep(50000);
		printf("{}\n");
	} else {
		load(both_ways, WARM_UP);
		timed = rate > 0;
		for (unsigned i = 0; i < windows && !ended; i++) {
			event("pause");
			usleep(PAUSE * 1e6);
			load(both_ways, 0.01);
			for (int rest = 0; pings && rest < 100; rest++) {
				receive_both();
				rte_delay_us_block(10);
			}
			window(pings, both_ways);
		}
		event("pause");
		usleep(PAUSE * 1e6);
	}
	for (int port = 0; port < 2; port++) {
		rte_eth_dev_stop(port);
		rte_eth_dev_close(port);
	}
	rte_eal_cleanup();
	return 0;
}
