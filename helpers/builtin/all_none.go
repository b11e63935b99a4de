//go:build no_helpers

package builtin

import "ctbox/helpers/helper"

// all is empty: this ctbox is built without helpers.
var all []*helper.Helper
