package router
import "testing"
func TestZZProbe(t *testing.T) {
	for _, s := range []string{
		"", "localhost:6379", "http://:s3cr3t@h", "redis:s3cr3t@h", "redis+x://:s3cr3t@h", "unix:///s3cr3t", "redis://:s3cr3t@h:port", "redis://:s3cr3t@h:6379/x", "redis://:s3cr3t@h/0/1", "redis://:s3cr3t@h?foo=1",
		"redis://:s3cr3t/x@h:6379", "redis://:s3cr3t#x@h:6379", "redis://:s3cr3t?x@h:6379","redis://:s3cr3t%zz@h:6379", "redis://:s3%zzcr3t@h:6379","redis://:s3cr3t%@h", "redis://:s3 cr3t@h", "redis://:s3cr3t\n@h", "redis://:s3cr3t[@h","redis://:12345/678@h", "redis://s3cr3t/x@h",
		"redis+sentinel://:s3cr3t@h1,h2", "redis+sentinel://:s3cr3t@h1,,h2/m", "redis+sentinel://:s3cr3t@/m", "redis+sentinel://:s3cr3t@h1,h2/m/x", "redis+sentinel://:s3cr3t@h1:x,h2/m", "redis+sentinel://:s3cr3t@h1,h2:/m", "redis+sentinel://:s3cr3t/x@h1,h2/m/0", "redis+sentinel://:s3cr3t#x@h1,h2/m/0","redis+sentinel://:s3cr3t?x@h1,h2/m/0","redis+sentinel://:s3cr3t%zz@h1,h2/m/0", "redis+sentinel://h1,h2/m?sentinel_password=s3cr3t%zz", "redis+sentinel://h1,h2/m?sentinel_password=s3cr3t;x","redis+sentinel://h1,h2/m?sentinel_pasword=s3cr3t", "redis+sentinel://:s3cr3t@h1/m/0/9", "redis+sentinel://:12345/678@h1,h2/m/0", "redis+sentinel://[::1],[::2]:5/m","redis+sentinel://h,[::2]/m",
		"redis+cluster://:s3cr3t@h1,,h2", "redis+cluster://:s3cr3t@h1:x,h2", "redis+cluster://:s3cr3t@h1,h2:", "redis+cluster://:s3cr3t/x@h1,h2", "redis+cluster://:s3cr3t%zz@h1,h2", "redis+cluster://:s3cr3t@h1,h2?skip_verify=1", "redis+cluster://:s3cr3t@h1,h2/3", "redis+cluster://:12345/678@h1", "rediss+cluster://[::1]",
	} {
		c, err := connect(s, tuning{1, 1, 1})
		t.Logf("%-60q %T %v", s, c, err)
	}
}
