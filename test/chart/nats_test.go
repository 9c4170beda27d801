package chart

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
)

// TestNATSReadsItsConfiguration gives what the chart renders to NATS itself.
func TestNATSReadsItsConfiguration(t *testing.T) {
	type settings struct {
		Name, User, Password, Store string
		MaxStore, MaxMemory         int64
		MaxPayload                  int32
		Sync                        time.Duration
		SyncAlways                  bool
		Cluster, ClusterUser        string
		Routes                      []string
	}
	single := settings{
		Name: "nats-0", User: "graphene", Password: "RANDOM", Store: "/data",
		MaxStore: 9 << 30, MaxMemory: 256 << 20, MaxPayload: 8 << 20, Sync: 2 * time.Minute,
	}
	three := single
	three.MaxStore, three.SyncAlways = 18<<30, true
	three.Cluster, three.ClusterUser = "graphene", "graphene"
	for _, n := range []string{"0", "1", "2"} {
		three.Routes = append(three.Routes, "nats://graphene:RANDOM@nats-"+n+".nats-headless.openfaas.svc:6222")
	}
	c := load(t)
	t.Setenv("POD_NAME", "nats-0")
	for set, want := range map[string]settings{"default": single, "ha": three} {
		rendered, err := render(c, sets(t)[set])
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for _, o := range objects(t, rendered) {
			for _, part := range []string{"data", "stringData"} {
				files, _ := o.field(part).(map[string]any)
				if o.field("metadata", "labels", "app") != "nats" || files == nil {
					continue
				}
				for name, text := range files {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text.(string)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		o, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
		if err != nil {
			t.Fatalf("%s: %v", set, err)
		}
		got := settings{
			Name: o.ServerName, User: o.Username, Password: o.Password, Store: o.StoreDir,
			MaxStore: o.JetStreamMaxStore, MaxMemory: o.JetStreamMaxMemory, MaxPayload: o.MaxPayload,
			Sync: o.SyncInterval, SyncAlways: o.SyncAlways,
			Cluster: o.Cluster.Name, ClusterUser: o.Cluster.Username,
		}
		for _, route := range o.Routes {
			got.Routes = append(got.Routes, route.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", set, diff)
		}
	}
}
