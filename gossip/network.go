package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// network is what a node does its I/O through. Tests bring one that they can cut.
type network interface {
	// Listen listens for links.
	Listen(ctx context.Context, addr string) (net.Listener, error)
	// Dial opens a connection for a link.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Gossip opens the gossip port, behind the gate, and returns the address that others reach it at.
	Gossip(ctx context.Context, o Options, gate *gate, refused *refusals) (memberlist.NodeAwareTransport, netip.AddrPort, error)
}

// internet is the network that there is.
type internet struct{}

func (internet) Listen(ctx context.Context, addr string) (net.Listener, error) {
	var c net.ListenConfig
	return c.Listen(ctx, "tcp", addr)
}

// dialTime is how long a connection may take to be made: beyond the second packet the kernel would wait too long with the
// next one, for a network that is back.
const dialTime = 2 * time.Second

func (internet) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTime}
	return d.DialContext(ctx, "tcp", addr)
}

func (internet) Gossip(
	ctx context.Context, o Options, gate *gate, refused *refusals,
) (memberlist.NodeAwareTransport, netip.AddrPort, error) {
	tcp, udp, err := listenBoth(o.GossipListen)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	addr, err := advertise(ctx, tcp.Addr(), o.AdvertiseHost)
	if err != nil {
		return nil, netip.AddrPort{}, errors.Join(err, tcp.Close(), udp.Close())
	}
	return newTransport(tcp, udp, addr, gate, refused), addr, nil
}

// advertise returns the address that others reach a listener at: that of the host, which may be empty;
// the address that it is bound to; or where that is any, the first private one of this machine.
func advertise(ctx context.Context, bound net.Addr, host string) (netip.AddrPort, error) {
	b, err := netip.ParseAddrPort(bound.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host != "" {
		addrs, err := resolve(ctx, net.JoinHostPort(host, fmt.Sprint(b.Port())))
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("the host to advertise: %w", err)
		}
		if addrs[0].Addr().IsUnspecified() {
			return netip.AddrPort{}, fmt.Errorf("the host to advertise: nobody can reach %s", host)
		}
		return addrs[0], nil
	}
	if ip := b.Addr().Unmap(); !ip.IsUnspecified() {
		return netip.AddrPortFrom(ip, b.Port()), nil
	}
	ip, err := privateAddr()
	return netip.AddrPortFrom(ip, b.Port()), err
}

// privateAddr returns the first private address of this machine, of IPv4 where there is one.
func privateAddr() (found netip.Addr, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsPrivate() {
			continue
		}
		if prefix.Addr().Is4() {
			return prefix.Addr(), nil
		}
		if !found.IsValid() {
			found = prefix.Addr()
		}
	}
	if !found.IsValid() {
		return found, errors.New("this machine has no private address: say which host to advertise")
	}
	return found, nil
}
