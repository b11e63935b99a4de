package conf_test

import (
	"fmt"

	"ctbox/conf"
)

// Parsing a file. Warnings come in the order of the file; an error names the place.
func ExampleParse() {
	cfg, warnings, err := conf.Parse("conntrackd.conf", []byte(`
		Sync {
			Mode FTFW { ResendQueueSize 65536 }
			UDP {
				IPv4_address 192.0.2.1
				IPv4_Destination_Address 192.0.2.2
				Interface eth2
				Port 3780
			}
		}
		General { HashLimit 131072 }
	`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, w := range warnings {
		fmt.Println(w.Text)
	}
	link := cfg.Sync.Links[0]
	fmt.Println(cfg.Sync.ResendQueueSize, link.Interface, link.Destination, cfg.General.HashLimit)

	_, _, err = conf.Parse("conntrackd.conf", []byte("Sync {\n\tMode FTFV { }\n}\n"))
	fmt.Println(err)
	// Output:
	// 65536 eth2 192.0.2.2 131072
	// conntrackd.conf:2:7: found "FTFV", expected FTFW, ALARM or NOTRACK (did you mean FTFW?)
}
