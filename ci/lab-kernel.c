/* The switch of vcpu_put(): kvmbench.put=deferred, eager or none on the kernel's command line.

   ci/lab-kernel adds this file to a source of Linux, and to invalidate_tss_limit(), which
   vcpu_put() calls, a look at kvmbench_put. */

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>

int kvmbench_put; /* an index of names */
EXPORT_SYMBOL_GPL(kvmbench_put);

static const char *const names[] = {
	"deferred", /* the kernel's own code: reload for a thread with a bitmap, else mark */
	"eager",    /* reload, as up to 4.10 */
	"none",     /* neither reload nor mark */
};

static int set(const char *value, const struct kernel_param *parameter)
{
	int found = sysfs_match_string(names, value);

	if (found >= 0)
		kvmbench_put = found;
	return found < 0 ? found : 0;
}

static int get(char *buffer, const struct kernel_param *parameter)
{
	return sprintf(buffer, "%s\n", names[kvmbench_put]);
}

static const struct kernel_param_ops operations = { .set = set, .get = get };
module_param_cb(put, &operations, NULL, 0644);
