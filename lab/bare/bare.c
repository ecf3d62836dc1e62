/* A bare-metal guest: a PVH ELF of a few KiB with a polling virtio-net driver that can be told, on its
 * command line, which features to accept. It boots in a quarter of a second under TCG, so every
 * combination of QEMU's device properties can be tried in about a second each.
 *
 *   accept=HEX   feature bits to accept, of those offered (MAC is always accepted)
 *   legacy       use the legacy (virtio 0.9) registers: no VERSION_1, 10-byte header without MRG_RXBUF
 *   role=echo    send each frame addressed to this guest back, addresses swapped
 *   role=probe   send `frames` frames of all sizes to `peer` and check what comes back, byte for byte
 *   peer=HEX     MAC address of the echoing guest, as 12 digits
 *   frames=HEX   how many (default 0x400)
 *
 * On the serial port: "features OFFERED ACCEPTED", "@@ ECHO ready", and for the probe one line
 * "@@ PROBE sent=N lost=N bad=N" in hexadecimal.
 *
 * It is deliberately awkward: receive buffers are smaller than a frame with MRG_RXBUF, and split between
 * header and frame without it; transmit chains have one to three parts, in an indirect table where that
 * was negotiated; kicks are only given where the device asked for them.
 *
 * References: virtio 1.2, 2.7 (split virtqueues), 2.8 (packed ones), 3.1 (initialization), 4.1.4 (PCI), 5.1 (network). */
#include <stdint.h>

enum { RX, TX };
enum { RING = 256, SLOTS = 64, FRAME_MAX = 1514, BUFFER = 2048, SMALL = 512, PARTS = 3, WINDOW = 16 };
enum { F_MAC = 5, F_MRG_RXBUF = 15, F_ANY_LAYOUT = 27, F_INDIRECT = 28, F_EVENT_IDX = 29, F_VERSION_1 = 32,
       F_PACKED = 34, F_IN_ORDER = 35 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

#define BARRIER() __asm__ volatile("" ::: "memory")
/* Not a locked addition: where a guest has one CPU, TCG makes a plain one of it, which orders nothing for the device. */
#define FENCE() __asm__ volatile("mfence" ::: "memory")
#define PAUSE() __asm__ volatile("pause")

static inline void outb(uint16_t p, uint8_t v) { __asm__ volatile("outb %0,%1" ::"a"(v), "Nd"(p)); }
static inline void outw(uint16_t p, uint16_t v) { __asm__ volatile("outw %0,%1" ::"a"(v), "Nd"(p)); }
static inline void outl(uint16_t p, uint32_t v) { __asm__ volatile("outl %0,%1" ::"a"(v), "Nd"(p)); }
static inline uint8_t inb(uint16_t p) { uint8_t v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline uint16_t inw(uint16_t p) { uint16_t v; __asm__ volatile("inw %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline uint32_t inl(uint16_t p) { uint32_t v; __asm__ volatile("inl %1,%0" : "=a"(v) : "Nd"(p)); return v; }
static inline uint64_t ticks(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}
/* Of the time stamp counter, which under TCG is the host's: a second at least, where that counts no more than 5 GHz. It goes
 * on while nobody here has a CPU, and beside other work that took up to a second. So patience is many of these. */
static const uint64_t SECOND = 5000000000;
enum { PATIENCE = 20 };

void *memset(void *to, int byte, unsigned long n) {
    for (uint8_t *p = to; n--; p++)
        *p = byte;
    return to;
}
static void copy(uint8_t *to, const uint8_t *from, uint32_t n) {
    while (n--)
        *to++ = *from++;
}
static int same(const uint8_t *a, const uint8_t *b, uint32_t n) {
    while (n && *a == *b)
        a++, b++, n--;
    return n == 0;
}

/* ---- Console: the first serial port, polled. */

static void put_char(char c) {
    for (int i = 0; i < 10000 && !(inb(0x3fd) & 0x20); i++)
        ;
    outb(0x3f8, c);
}
static void put(const char *s) {
    for (; *s; s++) {
        if (*s == '\n')
            put_char('\r');
        put_char(*s);
    }
}
static void put_hex(uint64_t v, int digits) {
    while (digits--)
        put_char("0123456789abcdef"[v >> (4 * digits) & 15]);
}

/* ---- Command line. */

static const char *command_line;

/* What follows `key` at the start of a word of the command line; 0 if it is not there. */
static const char *option(const char *key) {
    for (const char *p = command_line; *p; p++) {
        if (p != command_line && p[-1] != ' ')
            continue;
        const char *a = p, *b = key;
        while (*b && *a == *b)
            a++, b++;
        if (!*b)
            return a;
    }
    return 0;
}
static uint64_t option_hex(const char *key, uint64_t otherwise) {
    const char *p = option(key);
    uint64_t v = 0;
    if (!p)
        return otherwise;
    for (; *p && *p != ' '; p++)
        v = v << 4 | ((*p & 15) + (*p > '9' ? 9 : 0));
    return v;
}

/* ---- PCI configuration space of bus 0. */

static uint32_t pci_read(int dev, int off) {
    outl(0xcf8, 0x80000000u | dev << 11 | (off & 0xfc));
    return inl(0xcfc);
}
static void pci_write(int dev, int off, uint32_t v) {
    outl(0xcf8, 0x80000000u | dev << 11 | (off & 0xfc));
    outl(0xcfc, v);
}
static int find_device(void) {
    for (int d = 0; d < 32; d++) {
        uint32_t id = pci_read(d, 0);
        if (id == 0x10411af4 || id == 0x10001af4)       /* virtio-net: modern, transitional */
            return d;
    }
    return -1;
}

/* ---- Rings. With 256 entries this layout is also the one that legacy registers demand. */

struct desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct avail { volatile uint16_t flags, idx, ring[RING], used_event; };
struct elem { volatile uint32_t id, len; };
struct used { volatile uint16_t flags, idx; struct elem ring[RING]; volatile uint16_t avail_event; };
static struct queue {
    struct desc desc[RING];
    struct avail avail;
    struct used used __attribute__((aligned(4096)));
} queues[2] __attribute__((aligned(4096)));

/* The same as a packed ring. An entry has the id where a split one has `next`, but the other way round. */
struct packed_desc { uint64_t addr; uint32_t len; uint16_t id; volatile uint16_t flags; };
struct events { volatile uint16_t at, flags; };
enum { AVAIL = 1 << 7, USED = 1 << 15, EVENTS_DISABLE = 1, EVENTS_DESC = 2 };
static struct packed {
    struct packed_desc desc[RING] __attribute__((aligned(16)));
    struct events driver, device;
    uint16_t next, last, added;                         /* places: to write, to find used; descriptors ever added */
    uint16_t next_wrap, last_wrap;
    uint16_t order[SLOTS], given, taken;                /* slots in the order that the device has them */
    uint16_t count[SLOTS];                              /* descriptors of each */
} packeds[2] __attribute__((aligned(4096)));

static struct desc tables[2][SLOTS][PARTS];             /* indirect tables */
static uint8_t rx_buffers[SLOTS][BUFFER], tx_buffers[SLOTS][BUFFER];
static uint16_t done[2], tx_sent;                       /* chains that came back; chains made available */

static uint64_t features;
static uint32_t header_len;
static uint8_t own[6];
static int has(int bit) { return features >> bit & 1; }

/* ---- The device's registers: modern ones in memory, legacy ones in I/O space. */

static uint16_t legacy;                                 /* base port; 0: modern */
static uintptr_t common, notify, config;
static uint32_t notify_multiplier;
static uint16_t notify_off[2];
#define C8(o) (*(volatile uint8_t *)(common + (o)))     /* struct virtio_pci_common_cfg, by offset */
#define C16(o) (*(volatile uint16_t *)(common + (o)))
#define C32(o) (*(volatile uint32_t *)(common + (o)))
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

static void set_status(uint8_t s) {
    if (legacy)
        outb(legacy + 18, s);
    else
        C8(20) = s;
}
static uint8_t get_status(void) { return legacy ? inb(legacy + 18) : C8(20); }

static void find_registers(int dev) {
    pci_write(dev, 4, pci_read(dev, 4) | 7);            /* I/O space, memory space, bus master */
    if (option("legacy")) {
        legacy = pci_read(dev, 16) & ~3u;
        return;
    }
    for (int cap = pci_read(dev, 0x34) & 0xff; cap; cap = pci_read(dev, cap) >> 8 & 0xff) {
        uint32_t head = pci_read(dev, cap);
        int type = head >> 24;
        if ((head & 0xff) != 9 || type < 1 || type > 4 || type == 3)
            continue;
        int bar = pci_read(dev, cap + 4) & 0xff;
        uintptr_t a = (pci_read(dev, 16 + 4 * bar) & ~15u) + pci_read(dev, cap + 8);
        if (type == 1)
            common = a;
        else if (type == 2)
            notify = a, notify_multiplier = pci_read(dev, cap + 16);
        else
            config = a;
    }
}

static int negotiate(void) {
    set_status(0);
    while (get_status())
        ;
    set_status(ACKNOWLEDGE);
    set_status(ACKNOWLEDGE | DRIVER);
    uint64_t offered;
    if (legacy) {
        offered = inl(legacy);
    } else {
        C32(0) = 0;
        offered = C32(4);
        C32(0) = 1;
        offered |= (uint64_t)C32(4) << 32;
    }
    features = offered & (option_hex("accept=", 0) | 1 << F_MAC | (legacy ? 0 : 1ull << F_VERSION_1));
    put("features "); put_hex(offered, 16); put(" "); put_hex(features, 16); put("\n");
    header_len = has(F_VERSION_1) || has(F_MRG_RXBUF) ? 12 : 10;
    if (legacy) {
        outl(legacy + 4, features);
    } else {
        C32(8) = 0;
        C32(12) = features;
        C32(8) = 1;
        C32(12) = features >> 32;
        set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if (!(get_status() & FEATURES_OK))
            return 0;
    }
    for (int i = 0; i < 6; i++)
        own[i] = legacy ? inb(legacy + 20 + i) : *(volatile uint8_t *)(config + i);
    return 1;
}

static int set_up_queue(int i) {
    struct queue *q = &queues[i];
    struct packed *p = &packeds[i];
    q->avail.flags = 1;                                 /* VIRTQ_AVAIL_F_NO_INTERRUPT */
    p->driver.flags = EVENTS_DISABLE;
    p->next_wrap = p->last_wrap = 1;
    if (legacy) {
        outw(legacy + 14, i);
        if (inw(legacy + 12) != RING)
            return 0;
        outl(legacy + 8, (uintptr_t)q / 4096);
        return 1;
    }
    C16(22) = i;
    if (C16(24) < RING)
        return 0;
    C16(24) = RING;
    notify_off[i] = C16(30);
    C32(32) = has(F_PACKED) ? (uintptr_t)p->desc : (uintptr_t)q->desc;      C32(36) = 0;
    C32(40) = has(F_PACKED) ? (uintptr_t)&p->driver : (uintptr_t)&q->avail; C32(44) = 0;
    C32(48) = has(F_PACKED) ? (uintptr_t)&p->device : (uintptr_t)&q->used;  C32(52) = 0;
    C16(28) = 1;
    return 1;
}

/* ---- Moving frames. */

/* A number that grows with what is made available. */
static uint16_t offered(int i) { return has(F_PACKED) ? packeds[i].added : queues[i].avail.idx; }

/* Whether the device wants to know that offered() has grown from `old` to `now`. */
static int wanted(int i, uint16_t old, uint16_t now) {
    struct queue *q = &queues[i];
    struct packed *p = &packeds[i];
    if (!has(F_PACKED))
        return has(F_EVENT_IDX) ? (uint16_t)(now - q->used.avail_event - 1) < (uint16_t)(now - old)
                                : !(q->used.flags & 1);
    uint16_t flags = p->device.flags;
    if (flags != EVENTS_DESC || !has(F_EVENT_IDX))
        return flags != EVENTS_DISABLE;
    uint16_t at = p->device.at, event = at & 0x7fff;
    if (at >> 15 != p->next_wrap)
        event -= RING;
    return (uint16_t)(p->next - event - 1) < (uint16_t)(now - old);
}

/* Tells the device, if it wants to know, that offered() has moved on from `old`. */
static void kick(int i, uint16_t old) {
    FENCE();
    if (!wanted(i, old, offered(i)))
        return;
    if (legacy)
        outw(legacy + 16, i);
    else
        *(volatile uint16_t *)(notify + notify_multiplier * notify_off[i]) = i;
}

/* Makes a chain of `n` parts available in the next places of a packed ring; the flags of the first come last. */
static void offer_packed(int i, int slot, const struct desc *parts, int n, uint16_t write) {
    struct packed *p = &packeds[i];
    struct packed_desc *table = (struct packed_desc *)tables[i][slot];
    int indirect = has(F_INDIRECT) && n > 1;
    struct desc whole = { (uintptr_t)table, n * sizeof *table, INDIRECT, 0 };
    if (indirect) {
        for (int k = 0; k < n; k++)
            table[k] = (struct packed_desc){ parts[k].addr, parts[k].len, 0, write };
        parts = &whole, n = 1;
    }
    uint16_t first = p->next, first_flags = 0;
    for (int k = 0; k < n; k++) {
        uint16_t flags = (p->next_wrap ? AVAIL : USED) | (indirect ? INDIRECT : write | (k + 1 < n ? NEXT : 0));
        struct packed_desc *d = &p->desc[p->next];
        d->addr = parts[k].addr, d->len = parts[k].len, d->id = slot;
        if (k)
            d->flags = flags;
        else
            first_flags = flags;
        if (++p->next == RING)
            p->next = 0, p->next_wrap ^= 1;
    }
    BARRIER();
    p->desc[first].flags = first_flags;
    p->count[slot] = n;
    p->order[p->given++ % SLOTS] = slot;
    p->added += n;
}

/* Makes a chain of `n` parts available: in descriptors 4 * slot and on, or in an indirect table. */
static void offer(int i, int slot, const struct desc *parts, int n, uint16_t write) {
    struct queue *q = &queues[i];
    if (has(F_PACKED)) {
        offer_packed(i, slot, parts, n, write);
        return;
    }
    int head = 4 * slot, indirect = has(F_INDIRECT) && n > 1;
    struct desc *to = indirect ? tables[i][slot] : &q->desc[head];
    for (int k = 0; k < n; k++)
        to[k] = (struct desc){ parts[k].addr, parts[k].len, write | (k + 1 < n ? NEXT : 0),
                               (indirect ? 0 : head) + k + 1 };
    if (indirect)
        q->desc[head] = (struct desc){ (uintptr_t)to, n * sizeof *to, INDIRECT, 0 };
    q->avail.ring[q->avail.idx % RING] = head;
    BARRIER();
    q->avail.idx++;
}

static void post(int slot) {
    uintptr_t b = (uintptr_t)rx_buffers[slot];
    if (has(F_MRG_RXBUF))
        offer(RX, slot, (struct desc[]){ { b, SMALL, 0, 0 } }, 1, WRITE);
    else
        offer(RX, slot, (struct desc[]){ { b, header_len, 0, 0 },
                                         { b + header_len, BUFFER - header_len, 0, 0 } }, 2, WRITE);
}

/* Whether the device has given something back. */
static int ready(int i) {
    struct packed *p = &packeds[i];
    if (!has(F_PACKED))
        return queues[i].used.idx != done[i];
    uint16_t flags = p->desc[p->last].flags, both = p->last_wrap ? AVAIL | USED : 0;
    return (flags & (AVAIL | USED)) == both && p->taken != p->given;
}

/* The next chain that the device gives back: its slot, and the bytes in it. Waits where it must. In order, one
 * packed descriptor may stand for all chains up to it. */
static int take(int i, uint32_t *len) {
    struct used *u = &queues[i].used;
    struct packed *p = &packeds[i];
    while (!ready(i))
        PAUSE();
    FENCE();
    if (!has(F_PACKED)) {
        *len = u->ring[done[i] % RING].len;
        return u->ring[done[i]++ % RING].id / 4;
    }
    uint16_t id = p->desc[p->last].id, slot;
    *len = p->desc[p->last].len;
    do {
        slot = p->order[p->taken++ % SLOTS];
        done[i]++;
        p->last += p->count[slot];
        if (p->last >= RING)
            p->last -= RING, p->last_wrap ^= 1;
    } while (slot != id && has(F_IN_ORDER) && p->taken != p->given);
    if (slot != id)
        put("out of order\n");
    return slot;
}

/* Takes one received frame to `to`, its length as the result; 0: none is there; -1: one of a wrong form. */
static int receive(uint8_t *to) {
    if (!ready(RX))
        return 0;
    uint16_t old = offered(RX);
    uint32_t len, total = 0;
    int slot = take(RX, &len), wrong = len < header_len;
    uint8_t *b = rx_buffers[slot];
    int num_buffers = b[10] | b[11] << 8, buffers = has(F_MRG_RXBUF) ? num_buffers : 1;
    wrong |= buffers < 1 || buffers > 4 || (has(F_VERSION_1) && num_buffers != buffers);
    for (int i = 0, skip = header_len; !wrong; skip = 0) {
        uint32_t n = len - skip;
        if (len > (has(F_MRG_RXBUF) ? SMALL : BUFFER) || total + n > FRAME_MAX + 4) {
            wrong = 1;
            break;
        }
        copy(to + total, b + skip, n);
        total += n;
        if (++i == buffers)
            break;
        post(slot);
        slot = take(RX, &len);
        b = rx_buffers[slot];
    }
    post(slot);
    kick(RX, old);
    if (!wrong)
        return total;
    put("malformed: used.len "); put_hex(len, 8);
    put(" num_buffers "); put_hex(num_buffers, 4);
    put("\n");
    return -1;
}

/* Sends the frame in tx_buffers[slot] behind its zeroed header, in one to three parts. No kick yet. */
static void queue_frame(int slot, uint32_t len, uint32_t variety) {
    uintptr_t b = (uintptr_t)tx_buffers[slot];
    struct desc p[PARTS] = { { b, header_len, 0, 0 }, { b + header_len, len, 0, 0 }, { 0, 0, 0, 0 } };
    int n = 2;
    memset(tx_buffers[slot], 0, header_len);
    /* Before virtio 1.0 the header has a descriptor of its own. */
    if (has(F_VERSION_1) && variety % 3 == 0) {
        p[0].len += len;
        n = 1;
    } else if (variety % 3 == 2) {
        p[1].len = 14;
        p[2] = (struct desc){ b + header_len + 14, len - 14, 0, 0 };
        n = 3;
    }
    offer(TX, slot, p, n, 0);
    tx_sent++;
}

static void wait_sent(void) {
    uint32_t len;
    while (done[TX] != tx_sent)
        take(TX, &len);
}

static void echo(void) {
    put("@@ ECHO ready\n");
    for (;;) {
        uint16_t old = offered(TX);
        int n = 0, len;
        for (; n < WINDOW; n++) {
            uint8_t *frame = tx_buffers[n] + header_len;
            do
                len = receive(frame);
            while (len < 0 || (len > 0 && !same(frame, own, 6)));
            if (!len)
                break;
            copy(frame, frame + 6, 6);
            copy(frame + 6, own, 6);
            queue_frame(n, len, tx_sent);
        }
        if (n) {
            kick(TX, old);
            wait_sent();
        } else {
            PAUSE();
        }
    }
}

static uint8_t peer[6];

/* Frame number `n`: every length from 60 to 1514 turns up in time, the contents follow from the number. */
static uint32_t build(uint8_t *f, const uint8_t *to, const uint8_t *from, uint32_t n) {
    uint32_t len = 60 + n * 37 % (FRAME_MAX - 59);
    copy(f, to, 6);
    copy(f + 6, from, 6);
    f[12] = 0x88;
    f[13] = 0xb5;                                       /* IEEE 802 local experimental */
    f[14] = n >> 24; f[15] = n >> 16; f[16] = n >> 8; f[17] = n;
    for (uint32_t i = 18; i < len; i++)
        f[i] = (n * 7 + i * 13) ^ i >> 8;
    return len;
}

/* Sends frames first .. first + count - 1; how many came back within `patience`. */
static uint32_t burst(uint32_t first, uint32_t count, uint64_t patience, uint32_t *bad) {
    static uint8_t got[BUFFER], expected[BUFFER];
    uint16_t old = offered(TX);
    uint32_t back = 0;
    for (uint32_t i = 0; i < count; i++) {
        int slot = (first + i) % SLOTS;
        queue_frame(slot, build(tx_buffers[slot] + header_len, peer, own, first + i), first + i);
    }
    kick(TX, old);
    for (uint64_t end = ticks() + patience; back < count && ticks() < end;) {
        int len = receive(got);
        if (len <= 0) {
            *bad += len < 0;
            PAUSE();
            continue;
        }
        if (got[12] != 0x88 || got[13] != 0xb5)
            continue;                                   /* somebody's own traffic */
        uint32_t n = (uint32_t)got[14] << 24 | got[15] << 16 | got[16] << 8 | got[17];
        if (n < first)
            continue;                                   /* a late answer to a frame sent twice */
        if (n != first + back || build(expected, own, peer, n) != (uint32_t)len || !same(got, expected, len))
            ++*bad;
        back++;
    }
    wait_sent();
    return back;
}

static void probe(void) {
    uint64_t mac = option_hex("peer=", 0);
    uint32_t frames = option_hex("frames=", 0x400), bad = 0, lost = 0, sent = 0;
    for (int i = 0; i < 6; i++)
        peer[i] = mac >> (40 - 8 * i);
    /* The other side may not be there yet: frame 0 is sent until it comes back. */
    uint64_t give_up = ticks() + PATIENCE * SECOND;
    while (!burst(0, 1, SECOND / 25, &bad) && ticks() < give_up)
        ;
    for (uint32_t n = 1; n <= frames && lost < 4; n += WINDOW, sent += WINDOW)
        lost += WINDOW - burst(n, WINDOW, PATIENCE * SECOND, &bad);
    put("@@ PROBE sent="); put_hex(sent, 8);
    put(" lost="); put_hex(lost, 8);
    put(" bad="); put_hex(bad, 8);
    put("\n");
}

void cmain(const uint8_t *start_info) {
    outb(0x3fb, 3);                                     /* 8 bits */
    outb(0x3f9, 0);                                     /* no interrupts */
    command_line = (const char *)*(const uint64_t *)(start_info + 24);
    int dev = find_device();
    if (dev < 0) {
        put("@@ no virtio-net device\n");
        return;
    }
    find_registers(dev);
    if (!negotiate() || !set_up_queue(RX) || !set_up_queue(TX)) {
        put("@@ the device refused\n");
        return;
    }
    set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK | (legacy ? 0 : FEATURES_OK));
    for (int i = 0; i < SLOTS; i++)
        post(i);
    kick(RX, 0);
    const char *role = option("role=");
    if (role && *role == 'p')
        probe();
    else
        echo();
}
